# Strings, hashes, regular expressions, closures, sorts, forks and threads; prints checksums of what comes out.
use strict;
use warnings;
use threads;
use Digest::MD5 qw(md5_hex);
use Thread::Queue;

my $state = 20;
sub rnd { $state = $state * 48271 % 2147483647; return $state % $_[0] }

# A text of generated words, and a count of each.
my @words = map { join '', map { chr(97 + rnd(26)) } 0 .. rnd(10) } 1 .. 2000;
my $text = join ' ', map { $words[rnd(scalar @words)] } 1 .. 150_000;
my %count;
$count{$1}++ while $text =~ /(\w{3,})/g;
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 19];
print "top: @top\n";

# Substitutions with code, split and join, string growth at both ends.
(my $edited = $text) =~ s/\b([aeiou]\w+)/ucfirst(reverse $1) . length($1)/ge;
print 'edited: ', length($edited), ' ', md5_hex($edited), "\n";
my $grown = '';
for my $word (split / /, substr($text, 0, 200_000)) {
    $grown .= $word;
    $grown = $word . $grown if length($word) == 7;
    substr($grown, 0, 5000) = '' if length($grown) > 60_000;
}
print 'grown: ', md5_hex($grown), "\n";

# Nested structures, copied deeply and taken apart again.
sub tree { my $depth = shift; return $depth ? { map { ($words[rnd(2000)] => tree($depth - 1)) } 1 .. 5 } : [1 .. rnd(9)] }
sub copy { my $node = shift; return ref $node eq 'HASH' ? { map { ($_ => copy($node->{$_})) } keys %$node } : [@$node] }
sub text { my $node = shift; return ref $node eq 'HASH' ? '{' . join(',', map { "$_:" . text($node->{$_}) } sort keys %$node) . '}' : "[@$node]" }
my $tree = tree(6);
my $last = '';
for (1 .. 3) { my $copy = copy($tree); $last = md5_hex(text($copy)); }
print "tree: $last\n";

# A hash whose keys come and go.
my %table;
for my $step (1 .. 300_000) {
    my $key = 'key ' . rnd(30_000);
    if ($step % 3 == 0) { delete $table{$key} } else { $table{$key} .= "$step," }
}
print 'table: ', md5_hex(join ';', map { "$_=$table{$_}" } sort keys %table), "\n";

# Children that write back through pipes.
for my $child (1 .. 8) {
    pipe(my $reader, my $writer) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        close $reader;
        print $writer md5_hex(join '', map { $_ x $child } @words), "\n";
        close $writer;
        exit 0;
    }
    close $writer;
    print "child $child: ", <$reader>;
    waitpid $pid, 0;
    die "child $child: $?" if $?;
}

# Interpreter threads: each start clones all of the above.
my $queue = Thread::Queue->new(map { $words[$_] } 0 .. 400);
$queue->end;
my @threads = map { threads->create(sub { my %seen; while (defined(my $w = $queue->dequeue)) { $seen{$w} = md5_hex($w x 50) } return \%seen }) } 1 .. 4;
my %all = map { %{ $_->join } } @threads;
print 'threads: ', md5_hex(join ';', map { "$_=$all{$_}" } sort keys %all), "\n";

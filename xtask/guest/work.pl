# Strings, hashes, sorts and forks, with what perl-base has; prints what comes out.
use strict;
use warnings;

my $state = 20;
sub rnd { $state = $state * 48271 % 2147483647; return $state % $_[0] }
sub checksum { return unpack('%32C*', $_[0]) . ':' . length $_[0] }

# A text of generated words, and a count of each.
my @words = map { join '', map { chr(97 + rnd(26)) } 0 .. rnd(10) } 1 .. 800;
my $text = join ' ', map { $words[rnd(scalar @words)] } 1 .. 12_000;
my %count;
$count{$1}++ while $text =~ /(\w{3,})/g;
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9];
print "top: @top\n";

# Substitutions with code, growth at both ends.
(my $edited = $text) =~ s/\b([aeiou]\w+)/ucfirst(reverse $1) . length($1)/ge;
print 'edited: ', checksum($edited), "\n";
my $grown = '';
for my $word (split / /, $text) {
    $grown .= $word;
    $grown = $word . $grown if length($word) == 7;
    substr($grown, 0, 5000) = '' if length($grown) > 60_000;
}
print 'grown: ', checksum($grown), "\n";

# Nested structures, copied deeply; a hash whose keys come and go.
sub tree { my $depth = shift; return $depth ? { map { ($words[rnd(800)] => tree($depth - 1)) } 1 .. 4 } : [1 .. rnd(9)] }
sub copy { my $node = shift; return ref $node eq 'HASH' ? { map { ($_ => copy($node->{$_})) } keys %$node } : [@$node] }
sub flat { my $node = shift; return ref $node eq 'HASH' ? '{' . join(',', map { "$_:" . flat($node->{$_}) } sort keys %$node) . '}' : "[@$node]" }
my $tree = tree(5);
my $last = '';
for (1 .. 2) { $last = checksum(flat(copy($tree))) }
print "tree: $last\n";
my %table;
for my $step (1 .. 30_000) {
    my $key = 'key ' . rnd(4000);
    if ($step % 3 == 0) { delete $table{$key} } else { $table{$key} .= "$step," }
}
print 'table: ', checksum(join ';', map { "$_=$table{$_}" } sort keys %table), "\n";

# Children that write back through pipes.
for my $child (1 .. 4) {
    pipe(my $reader, my $writer) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        close $reader;
        print $writer checksum(join '', map { $_ x $child } @words), "\n";
        close $writer;
        exit 0;
    }
    close $writer;
    print "child $child: ", <$reader>;
    waitpid $pid, 0;
    die "child $child: $?" if $?;
}

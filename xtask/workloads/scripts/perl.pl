# Hashes of arrays, strings cut and joined, substitutions, in Perl.
use strict;
use warnings;

my $state = 1;
sub random { $state = ($state * 1103515245 + 12345) % 2147483648; return int($state / 65536) % $_[0] }

my %table;
push @{ $table{ "key " . random(20000) } }, "value $_" for 1 .. 250000;
my $count = 0;
$count += @$_ for values %table;
die "table" unless $count == 250000;

my $text = join ';', map { "$_=" . join ',', @{ $table{$_} } } sort keys %table;
(my $changed = $text) =~ s/value (\d+)/$1 + 1/ge;
my %back = map { my ($k, $v) = split /=/, $_, 2; ($k, [split /,/, $v]) } split /;/, $changed;
die "back" unless keys %back == keys %table;
print scalar(keys %back), ' ', length($text), ' ', length($changed), "\n";

<?php
// Arrays, strings, JSON, regular expressions, sorting, objects: the output is the same on every allocator.
mt_srand(7);
$words = [];
for ($i = 0; $i < 20000; $i++) {
    $words[] = str_repeat(chr(97 + mt_rand(0, 25)), mt_rand(1, 60)) . $i;
}
$counts = [];
foreach ($words as $word) {
    $counts[$word[0]] = ($counts[$word[0]] ?? 0) + strlen($word);
}
ksort($counts);
sort($words);
$reversed = array_map('strrev', array_reverse($words));
usort($reversed, fn($a, $b) => strlen($a) <=> strlen($b) ?: strcmp($a, $b));
$text = json_encode(['words' => $reversed, 'counts' => $counts], JSON_PRETTY_PRINT);
$back = json_decode($text, true);
assert($back['counts'] === $counts);
$found = preg_match_all('/"([0-9]+)([a-z])\2{9,}"/', $text, $matches);
$replaced = preg_replace_callback('/[0-9]{3,}/', fn($m) => strrev($m[0]) . '-', $text);
class Node {
    public function __construct(public int $value, public ?Node $left = null, public ?Node $right = null) {}
    public function add(int $value): void {
        $side = $value < $this->value ? 'left' : 'right';
        if ($this->$side) $this->$side->add($value);
        else $this->$side = new Node($value);
    }
    public function sum(): int {
        return $this->value + ($this->left?->sum() ?? 0) + ($this->right?->sum() ?? 0);
    }
}
$root = new Node(5000);
for ($i = 0; $i < 5000; $i++) $root->add(mt_rand(0, 10000));
$big = str_repeat('large blocks grow ', 100000);
for ($i = 0; $i < 5; $i++) $big .= substr($big, 0, 1000000);
echo 'done ', md5($text), ' ', md5($replaced), ' ', $found, ' ', $root->sum(), ' ', strlen($big), "\n";

#!/bin/sh
# Makes what the real programs work on, in the directory given; once.
set -eu
cd "$1"
[ ! -e done ] || exit 0
rm -rf repo
git init -q -b main repo
awk 'BEGIN {
	srand(1)
	for (c = 1; c <= 400; c++) {
		printf "commit refs/heads/main\nmark :%d\ncommitter A <a@b> %d +0000\ndata 2\nc\n", c, 1600000000 + c
		f = c % 20
		text = ""
		lines[f]++
		for (i = 0; i < 300; i++)
			text = text "line " i " of file " f " " int((i * 7919 + (i % 17 == c % 17 ? c : 0)) % 100003) "\n"
		printf "M 644 inline file%d.txt\ndata %d\n%s\n", f, length(text), text
	}
}' | git -C repo fast-import --quiet
{
	echo '#include <bits/stdc++.h>'
	i=0
	while [ $i -lt 60 ]; do
		cat <<END
namespace n$i {
template <class T> struct S { std::map<T, std::vector<std::string>> m; std::unordered_map<std::string, T> u; };
inline int f(int x) {
    S<long> s;
    S<short> r;
    s.m[x].push_back(std::to_string(x + $i));
    r.u[std::to_string(x)] = $i;
    std::function<int(int)> g = [&](int y) { return int(s.m[y].size() + r.u.size()) + x; };
    std::vector<std::tuple<int, std::string>> v;
    v.emplace_back(x, "a");
    std::sort(v.begin(), v.end());
    return g(x) + std::get<0>(v[0]);
}
}
END
		i=$((i + 1))
	done
	echo 'int main() { return n1::f(2); }'
} >large.cpp
echo 'int add(int a, int b) { return a + b; }' >small.c
# The pigeonhole principle and linear arithmetic.
awk 'BEGIN {
	n = 9
	for (p = 0; p <= n; p++) for (h = 0; h < n; h++) printf "(declare-const p%d_%d Bool)\n", p, h
	for (p = 0; p <= n; p++) { printf "(assert (or"; for (h = 0; h < n; h++) printf " p%d_%d", p, h; print "))" }
	for (h = 0; h < n; h++) for (p = 0; p <= n; p++) for (q = p + 1; q <= n; q++)
		printf "(assert (not (and p%d_%d p%d_%d)))\n", p, h, q, h
	print "(check-sat)\n(reset)"
	for (i = 0; i < 60; i++) printf "(declare-const x%d Int)\n", i
	for (i = 0; i < 60; i++) printf "(assert (and (> (+ (* %d x%d) x%d) %d) (< x%d %d)))\n", i % 7 + 2, i, (i * 7 + 1) % 60, i, i, 40 + i
	print "(check-sat)"
}' >work.smt2
cat >work.ps <<'END'
%!PS
% Pages of text and curves, with dictionaries and strings made on the way.
/Times-Roman findfont 9 scalefont setfont
1 1 36 {
  /page exch def
  0 1 60 {
    /line exch def
    50 760 line 12 mul sub moveto
    20 string page line mul 7919 mul exch cvs show
    ( a line of text on this page, with some more words in it) show
  } for
  0 1 400 {
    /i exch def
    10 dict begin
    /x i 1.3 mul def
    newpath x 100 moveto x 300 x 40 add 500 x 20 add 700 curveto i 400 div setgray stroke
    end
  } for
  showpage
} for
END
touch done

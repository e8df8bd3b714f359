// Computing with small blocks, one thread.
#include "common.h"
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

namespace {

using Big = std::vector<uint32_t>;

Big add(const Big &a, const Big &b) {
    Big sum;
    sum.reserve(std::max(a.size(), b.size()) + 1);
    uint64_t carry = 0;
    for (size_t i = 0; i < std::max(a.size(), b.size()); i++) {
        carry += uint64_t(i < a.size() ? a[i] : 0) + (i < b.size() ? b[i] : 0);
        sum.push_back(uint32_t(carry));
        carry >>= 32;
    }
    if (carry) sum.push_back(uint32_t(carry));
    return sum;
}

Big multiply(const Big &a, const Big &b) {
    Big product(a.size() + b.size());
    for (size_t i = 0; i < a.size(); i++) {
        uint64_t carry = 0;
        for (size_t j = 0; j < b.size(); j++) {
            carry += uint64_t(a[i]) * b[j] + product[i + j];
            product[i + j] = uint32_t(carry);
            carry >>= 32;
        }
        product[i + b.size()] = uint32_t(carry);
    }
    while (!product.empty() && !product.back()) product.pop_back();
    return product;
}

uint64_t remainder(const Big &a, uint64_t p) {
    unsigned __int128 r = 0;
    for (size_t i = a.size(); i-- > 0;) r = ((r << 32) | a[i]) % p;
    return uint64_t(r);
}

// Sums and products of numbers of 1 to 60 limbs, checked modulo a prime.
uint64_t big_integers() {
    constexpr uint64_t p = 0x1FFFFFFFFFFFFFFF;
    Random random(1);
    std::vector<Big> numbers(512, Big{3});
    std::vector<uint64_t> residues(512, 3);
    for (int i = 0; i < 3000000; i++) {
        size_t a = random.below(512), b = random.below(512), to = random.below(512);
        bool times = numbers[a].size() + numbers[b].size() <= 24 && (i & 1);
        Big result = times ? multiply(numbers[a], numbers[b]) : add(numbers[a], numbers[b]);
        residues[to] = uint64_t(times ? (unsigned __int128)residues[a] * residues[b] % p
                                      : ((unsigned __int128)residues[a] + residues[b]) % p);
        if (result.size() > 40) { result = Big{uint32_t(i) | 1}; residues[to] = uint32_t(i) | 1; }
        numbers[to] = std::move(result);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < 512; i++) {
        check(remainder(numbers[i], p) == residues[i], "big integer");
        sum = sum * 31 + residues[i];
    }
    return sum;
}

struct Tree {
    Tree *left, *right;
};
Tree *grow(int depth) {
    auto *t = static_cast<Tree *>(malloc(sizeof(Tree)));
    t->left = depth ? grow(depth - 1) : nullptr;
    t->right = depth ? grow(depth - 1) : nullptr;
    return t;
}
uint64_t fell(Tree *t) {
    if (!t) return 0;
    uint64_t n = 1 + fell(t->left) + fell(t->right);
    free(t);
    return n;
}
// Binary trees that come and go beside one that stays.
uint64_t trees() {
    Tree *stays = grow(18);
    uint64_t nodes = 0;
    for (int depth = 4; depth <= 18; depth += 2)
        for (int i = 0; i < 1 << (20 - depth); i++) nodes += fell(grow(depth));
    nodes += fell(stays);
    uint64_t expected = (uint64_t(1) << 19) - 1;
    for (int depth = 4; depth <= 18; depth += 2)
        expected += ((uint64_t(1) << (depth + 1)) - 1) << (20 - depth);
    check(nodes == expected, "trees");
    return nodes;
}

// Strings as keys, vectors as values; erased and entered anew.
uint64_t hash_map() {
    Random random(2);
    std::unordered_map<std::string, std::vector<uint32_t>> map;
    uint64_t entered = 0, erased = 0;
    for (uint32_t i = 0; i < 1200000; i++) {
        std::string key = "a key of some length " + std::to_string(random.below(150000));
        if (random.below(3) == 0) {
            auto it = map.find(key);
            if (it != map.end()) { erased += it->second.size(); map.erase(it); }
        } else {
            map[key].push_back(i);
            entered++;
        }
    }
    uint64_t there = 0;
    for (auto &e : map) there += e.second.size();
    check(there + erased == entered, "hash map");
    return there;
}

// An ordered map whose nodes are of several sizes.
uint64_t ordered_map() {
    Random random(3);
    std::map<uint32_t, std::string> map;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < 900000; i++) {
        uint32_t key = random.below(200000);
        auto it = map.find(key);
        if (it != map.end()) {
            bytes -= it->second.size();
            map.erase(it);
        } else {
            size_t n = random.below(120);
            bytes += n;
            map.emplace(key, std::string(n, char('a' + key % 26)));
        }
    }
    uint64_t there = 0;
    for (auto &e : map) {
        there += e.second.size();
        check(e.second.empty() || e.second[0] == char('a' + e.first % 26), "ordered map");
    }
    check(there == bytes, "ordered map's bytes");
    return there;
}

// Lines built by appending, cut into words, sorted and joined.
uint64_t strings() {
    uint64_t hash = 7;
    for (uint32_t round = 0; round < 40; round++) {
        Random random(round + 10);
        std::string text;
        for (int i = 0; i < 40000; i++) {
            text += std::string(1 + random.below(30), char('a' + random.below(26)));
            text += ' ';
        }
        std::vector<std::string> words;
        for (size_t from = 0, to; (to = text.find(' ', from)) != text.npos; from = to + 1)
            words.push_back(text.substr(from, to - from));
        std::sort(words.begin(), words.end());
        std::string joined;
        for (auto &w : words) joined += w + '/';
        check(words.size() == 40000 && joined.size() == text.size(), "strings");
        for (size_t i = 0; i < joined.size(); i += 97) hash = hash * 31 + (unsigned char)joined[i];
    }
    return hash;
}

struct Json {
    enum { Number, Text, List, Object } kind = Number;
    long number = 0;
    std::string text;
    std::vector<std::unique_ptr<Json>> list;
    std::vector<std::pair<std::string, std::unique_ptr<Json>>> members;
};
std::unique_ptr<Json> invent(Random &random, int depth) {
    auto j = std::make_unique<Json>();
    uint32_t kind = depth ? 2 + random.below(2) : random.below(2);
    if (kind == 0) {
        j->number = random.below(100000);
    } else if (kind == 1) {
        j->kind = Json::Text;
        j->text = std::string(random.below(60), 'x');
    } else {
        j->kind = kind == 2 ? Json::List : Json::Object;
        for (uint32_t n = 2 + random.below(6); n-- > 0;) {
            auto child = invent(random, depth - 1);
            if (kind == 2) j->list.push_back(std::move(child));
            else j->members.emplace_back("name" + std::to_string(n), std::move(child));
        }
    }
    return j;
}
void write(const Json &j, std::string &out) {
    switch (j.kind) {
    case Json::Number: out += std::to_string(j.number); break;
    case Json::Text: out += '"' + j.text + '"'; break;
    case Json::List:
        out += '[';
        for (auto &e : j.list) { write(*e, out); out += ','; }
        out += ']';
        break;
    case Json::Object:
        out += '{';
        for (auto &m : j.members) { out += '"' + m.first + "\":"; write(*m.second, out); out += ','; }
        out += '}';
    }
}
std::string quoted(const char *&s) {
    const char *from = ++s;
    while (*s != '"') s++;
    return std::string(from, s++);
}
std::unique_ptr<Json> parse(const char *&s) {
    auto j = std::make_unique<Json>();
    if (*s == '"') {
        j->kind = Json::Text;
        j->text = quoted(s);
    } else if (*s == '[') {
        j->kind = Json::List;
        for (s++; *s != ']'; s++) j->list.push_back(parse(s));
        s++;
    } else if (*s == '{') {
        j->kind = Json::Object;
        for (s++; *s != '}'; s++) {
            std::string name = quoted(s);
            s++;
            j->members.emplace_back(std::move(name), parse(s));
        }
        s++;
    } else {
        char *end;
        j->number = strtol(s, &end, 10);
        s = end;
    }
    return j;
}
// Documents written, parsed and written again.
uint64_t json() {
    uint64_t bytes = 0;
    Random random(5);
    for (int i = 0; i < 22; i++) {
        std::string text, again;
        write(*invent(random, 7), text);
        const char *s = text.c_str();
        write(*parse(s), again);
        check(text == again, "json");
        bytes += text.size();
    }
    return bytes;
}

// An interpreter: boxed numbers counted by reference, a frame for each call.
struct Box {
    long references, value;
};
Box *box(long v) {
    auto *b = static_cast<Box *>(malloc(sizeof(Box)));
    *b = {1, v};
    return b;
}
void drop(Box *b) {
    if (--b->references == 0) free(b);
}
struct Frame {
    Frame *outer;
    Box *locals[4];
};
Box *call(Frame *outer, Box *n) {
    if (n->value < 2) { n->references++; return n; }
    auto *f = static_cast<Frame *>(calloc(1, sizeof(Frame) + size_t(n->value % 4) * 16));
    f->outer = outer;
    f->locals[0] = box(n->value - 1);
    f->locals[1] = box(n->value - 2);
    f->locals[2] = call(f, f->locals[0]);
    f->locals[3] = call(f, f->locals[1]);
    Box *sum = box(f->locals[2]->value + f->locals[3]->value);
    for (Box *b : f->locals) drop(b);
    free(f);
    return sum;
}
uint64_t interpreter() {
    Box *n = box(34), *r = call(nullptr, n);
    check(r->value == 5702887, "interpreter");
    uint64_t v = uint64_t(r->value);
    drop(r);
    drop(n);
    return v;
}

} // namespace

const std::vector<Workload> compute = {
    {"big-integers", big_integers}, {"trees", trees},     {"hash-map", hash_map},
    {"ordered-map", ordered_map},   {"strings", strings}, {"json", json},
    {"interpreter", interpreter},
};

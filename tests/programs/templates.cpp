// A program for the compiler to chew on: many instances of the library's containers and of <regex>.
#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

template <int N>
struct Key {
    std::array<int, N % 7 + 1> part{};
    std::string name;
    bool operator<(const Key &other) const { return std::tie(part, name) < std::tie(other.part, other.name); }
    bool operator==(const Key &other) const { return part == other.part && name == other.name; }
};

template <int N>
struct std::hash<Key<N>> {
    std::size_t operator()(const Key<N> &key) const {
        std::size_t h = N;
        for (int p : key.part) h = h * 31 + static_cast<std::size_t>(p);
        return h ^ std::hash<std::string>{}(key.name);
    }
};

template <int N>
using Value = std::variant<std::monostate, std::array<int, N>, std::string, std::vector<Key<N>>>;

template <int N>
int fill() {
    std::map<Key<N>, Value<N + 1>> ordered;
    std::unordered_map<Key<N>, std::function<int(int)>> hashed;
    for (int i = 0; i < 50; i++) {
        Key<N> key;
        key.part.fill(i * N);
        key.name = std::to_string(i % 7) + " of " + std::to_string(N);
        if (i % 3 == 0) ordered[key] = key.name;
        if (i % 3 == 1) ordered[key] = std::array<int, N + 1>{i};
        hashed[key] = [i, key](int x) { return x * i + static_cast<int>(key.name.size()); };
    }
    std::vector<std::pair<int, Key<N>>> sorted;
    for (const auto &[key, f] : hashed) sorted.emplace_back(f(N), key);
    std::sort(sorted.begin(), sorted.end());
    int sum = 0;
    for (const auto &[value, key] : sorted) sum = (sum * 31 + value) % 1'000'003;
    for (const auto &[key, value] : ordered)
        sum += std::visit([](const auto &v) { return static_cast<int>(sizeof v); }, value);
    const std::regex number("([0-9]+) of (" + std::to_string(N) + "|x+)");
    for (const auto &[key, value] : ordered) {
        std::smatch match;
        if (std::regex_match(key.name, match, number)) sum += std::stoi(match[1]) + N;
    }
    return sum;
}

template <int... Ns>
void fill_all(std::integer_sequence<int, Ns...>) {
    int number = 0;
    ((std::printf("%d: %d\n", number++, fill<Ns>())), ...);
}

int main() { fill_all(std::make_integer_sequence<int, 2>{}); }

//! Real programs on cidalloc: each does real work, and its results must equal those of a run without the
//! preload. One test for each program or way of using it; `programs/support.rs` says how they are run.
//!
//! `CIDALLOC_TEST_SO=/path/lib.so` preloads another library than the one cargo builds;
//! `CIDALLOC_TEST_SKIP_MISSING=1` skips programs that are not installed instead of failing.

#![cfg(target_os = "linux")]

mod common;
#[path = "programs/support.rs"]
mod support;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use support::{Side, Task, digest, installed, same, source};

const MIB: u64 = 1 << 20;

// Python

fn python3(name: &str, script: &str, least_peak: u64) {
    let Some(python) = installed("python3", "python3") else { return };
    // Python keeps small objects in arenas of its own; PYTHONMALLOC=malloc sends each one to malloc.
    for small_objects in ["malloc", "pymalloc"] {
        same(&format!("{name}-{small_objects}"), |side| {
            side.task(&python)
                .arg(source(script))
                .env("PYTHONMALLOC", small_objects)
                .env("PYTHONHASHSEED", "0")
                .least_peak(if small_objects == "malloc" { least_peak } else { 1 })
                .run()
        });
    }
}

#[test]
fn python3_builds_the_same_json() {
    python3("python3-json", "json_churn.py", 20 * MIB);
}

#[test]
fn python3_threads_exchange_the_same_buffers() {
    python3("python3-threads", "threads.py", 5 * MIB);
}

#[test]
fn python3_forks_while_its_threads_allocate() {
    python3("python3-forks", "forks.py", 5 * MIB);
}

// Redis

/// The commands that fill a Redis database, in its protocol: the same on each call.
fn redis_commands() -> Vec<u8> {
    let mut state = 20_u64;
    let mut random = |n: u64| {
        state = state * 48271 % 2_147_483_647;
        state % n
    };
    let mut out = Vec::new();
    let mut command = |words: &[&str]| {
        out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
    };
    let long = "0123456789abcdef".repeat(2000);
    for n in 0..60_000 {
        let value = &long[..random(if n % 100 == 0 { 30_000 } else { 300 }) as usize];
        let (k, f) = (random(2_000), format!("field:{}", random(400)));
        match random(12) {
            0 | 1 => command(&["SET", &format!("string:{k}"), value]),
            2 => command(&["APPEND", &format!("string:{k}"), &value[..value.len().min(100)]]),
            3 => command(&["SETRANGE", &format!("string:{k}"), "1000", "x"]),
            4 => command(&["HSET", &format!("hash:{}", k % 100), &f, value]),
            5 => command(&["RPUSH", &format!("list:{}", k % 100), value, &f, "1", "2"]),
            6 => command(&["LPOP", &format!("list:{}", k % 100)]),
            7 => command(&["SADD", &format!("set:{}", k % 100), &f, &n.to_string()]),
            8 => {
                command(&["ZADD", &format!("zset:{}", k % 100), &random(1_000_000).to_string(), &f])
            }
            9 => command(&[
                "XADD",
                &format!("stream:{}", k % 20),
                &format!("{}-0", n + 1),
                &f,
                value,
            ]),
            10 => command(&["UNLINK", &format!("string:{k}"), &format!("list:{}", k % 300)]),
            _ => command(&["HDEL", &format!("hash:{}", k % 100), &f]),
        }
    }
    out
}

/// A Redis server with its own directory and socket, not the system's service.
struct Redis<'a> {
    side: &'a Side,
    server: support::Running<'a>,
    cli: PathBuf,
}

impl<'a> Redis<'a> {
    fn start(side: &'a Side, task: Task<'a>, cli: &Path) -> Self {
        let options = [
            ["--port", "0"],
            ["--unixsocket", "redis.sock"],
            ["--save", ""],
            ["--dbfilename", "dump.rdb"],
            ["--enable-debug-command", "local"],
            ["--hz", "50"],
        ];
        let server = task.args(options.as_flattened()).least_peak(10 * MIB).start();
        let mut redis = Self { side, server, cli: cli.into() };
        while !side.dir.join("redis.sock").exists() {
            redis.server.assert_runs();
        }
        redis
    }

    fn cli(&self) -> Task<'a> {
        self.side.helper(&self.cli).args(["-s", "redis.sock"]).limit(Duration::from_secs(20))
    }

    fn ask(&self, command: &str) -> String {
        let answer = self.cli().args(command.split(' ')).run();
        assert!(!answer.starts_with("ERR"), "{command}: {answer}");
        answer
    }

    /// A number from INFO.
    fn info(&self, name: &str) -> u64 {
        let info = self.ask("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("{name} in {info}"))
    }

    fn wait_until_saved(&mut self) {
        while self.info("rdb_bgsave_in_progress") != 0 {
            self.server.assert_runs();
        }
        assert!(
            self.ask("INFO persistence").contains("rdb_last_bgsave_status:ok"),
            "BGSAVE failed"
        );
    }
}

#[test]
fn redis_keeps_the_same_data() {
    let (Some(server), Some(cli), Some(benchmark), Some(check)) = (
        installed("redis-server", "redis-server"),
        installed("redis-cli", "redis-tools"),
        installed("redis-benchmark", "redis-tools"),
        installed("redis-check-rdb", "redis-tools"),
    ) else {
        return;
    };
    same("redis", |side| {
        let mut redis = Redis::start(side, side.task(&server), &cli);
        let load = |args: &str| {
            side.helper(&benchmark).args(["-s", "redis.sock", "-q"]).args(args.split(' ')).start()
        };
        let mut results = String::new();

        // Every type of data, with fixed keys: what is left is the same each time.
        load("-n 10000 -P 16 -c 20").finish();
        results += &redis.ask("DEBUG DIGEST");
        // Random keys and values of several sizes: for the churn, its result is thrown away.
        for len in [16, 1000, 20000] {
            load(&format!("-n 10000 -P 16 -c 20 -r 5000 -d {len} -t set,get,lpush,lpop,sadd,spop,hset,zadd,zpopmin"))
                .finish();
        }
        // Snapshots while the writes go on: the child of the fork has the parent's heap.
        let writes = load("-n 100000 -P 4 -c 8 -r 50000 -d 200 -t set,lpush,hset");
        for _ in 0..3 {
            redis.ask("BGSAVE");
            redis.wait_until_saved();
        }
        writes.finish();
        // A thread of the server frees what its main thread allocated.
        redis.ask("FLUSHALL ASYNC");
        while redis.info("lazyfree_pending_objects") != 0 {
            redis.server.assert_runs();
        }
        // Redis counts by malloc_usable_size: it must say the same at free as it said at malloc.
        let empty = redis.info("used_memory");
        assert!(empty < 8 * MIB, "used_memory is {empty} with no data");

        // Data of all types, a snapshot of it, and the server's own reload of one.
        fs::write(side.dir.join("commands"), redis_commands()).expect("the commands are written");
        redis.cli().arg("--pipe").input("commands").run();
        results += &redis.ask("DBSIZE");
        results += &redis.ask("DEBUG DIGEST");
        results += &redis.ask("BGSAVE");
        redis.wait_until_saved();
        results += &redis.ask("DEBUG RELOAD");
        results += &redis.ask("DEBUG DIGEST");
        let script = "local n = 0 for _, k in ipairs(redis.call('KEYS', 'string:*')) do n = n + #redis.call('GET', k) end return n";
        results += &redis.cli().args(["EVAL", script, "0"]).run();
        // The server closes the connection instead of answering.
        redis.ask("SHUTDOWN SAVE");
        redis.server.finish();
        side.helper(&check).arg("dump.rdb").run();

        // Another server, without the preload, reads what this one wrote.
        let again = Redis::start(side, side.helper(&server), &cli);
        results += &again.ask("DEBUG DIGEST");
        again.ask("SHUTDOWN NOSAVE");
        again.server.finish();
        results
    });
}

// SQLite

#[test]
fn sqlite3_answers_the_same_queries() {
    let Some(sqlite3) = installed("sqlite3", "sqlite3") else { return };
    same("sqlite3", |side| {
        let ask = |database| {
            side.task(&sqlite3)
                .args(["-batch", database])
                .input(source("queries.sql"))
                .least_peak(5 * MIB)
                .run()
        };
        let results = ask(":memory:") + &ask("data.db");
        results + &digest("data.db", &side.read("data.db"))
    });
}

// Git

#[test]
fn git_makes_the_same_commits() {
    let Some(git) = installed("git", "git") else { return };
    same("git", |side| {
        let run = |args: &[&str]| {
            let mut task = side.task(&git).args(["-c", "gc.autoDetach=false"]).args(args);
            for (name, value) in [
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_AUTHOR_NAME", "Author"),
                ("GIT_AUTHOR_EMAIL", "author@example.org"),
                ("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z"),
                ("GIT_COMMITTER_NAME", "Committer"),
                ("GIT_COMMITTER_EMAIL", "committer@example.org"),
                ("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z"),
            ] {
                task = task.env(name, value);
            }
            task.run()
        };
        run(&["init", "-q", "-b", "main"]);
        let mut state = 20_u64;
        for commit in 0..8 {
            for file in 0..120 {
                // Lines of which a few change with each commit.
                let mut text = String::new();
                for line in 0..(file * 7 % 300) {
                    state = state * 48271 % 2_147_483_647;
                    let change = if state % 25 == 0 { commit } else { 0 };
                    writeln!(text, "line {line} of file {file}, changed in commit {change}")
                        .expect("a String grows");
                }
                let dir = side.dir.join(format!("dir{}", file % 9));
                fs::create_dir_all(&dir).expect("a directory is made");
                fs::write(dir.join(format!("file{file}.txt")), text).expect("a file is written");
            }
            run(&["add", "-A"]);
            run(&["commit", "-q", "-m", &format!("commit {commit}")]);
        }
        run(&["gc", "-q", "--aggressive", "--prune=now"]);
        // gc's own children run on it too.
        side.assert_processes(30);
        [
            &["rev-parse", "HEAD", "HEAD^{tree}"][..],
            &["log", "--stat", "--format=%H %T %an %s"],
            &["diff", "HEAD~5", "HEAD"],
            &["blame", "-s", "dir2/file101.txt"],
            &["log", "-S", "commit 3", "--format=%h"],
            &["grep", "-c", "commit 7"],
            &["cat-file", "--batch-all-objects", "--batch-check"],
            &["fsck", "--full", "--strict"],
            &["status", "--short"],
        ]
        .map(run)
        .concat()
    });
}

// Compilers

/// A C file of `count` functions with loops, switches and tables.
fn c_file(count: u32) -> String {
    let mut text = String::from("#include <stdint.h>\n#include <string.h>\n");
    for n in 0..count {
        let (a, b, c) = (n % 13 + 2, n % 7 + 3, n.wrapping_mul(2_654_435_761));
        write!(
            text,
            "struct s{n} {{ uint32_t a[{a}]; double d[{b}]; struct s{n} *next; }};
static const uint32_t table{n}[] = {{ {n}, {c}u, {a}, {b} }};
uint64_t f{n}(struct s{n} *s, uint64_t x) {{
    for (unsigned i = 0; s; s = s->next, i++) {{
        for (unsigned j = 0; j < {a}; j++) x += s->a[j] * table{n}[(i + j) % 4] ^ (x >> {b});
        for (unsigned j = 0; j < {b}; j++) s->d[j] = s->d[j] * {a}.5 + (double)(x % {c}u);
        switch (x % {a}) {{
        case 0: x ^= {c}u; break;
        case 1: memset(s->a, (int)x, sizeof s->a); break;
        default: x = x * {b} + i;
        }}
    }}
    return x;
}}
"
        )
        .expect("a String grows");
    }
    text
}

#[test]
fn gcc_makes_the_same_object_and_program() {
    let Some(gcc) = installed("gcc", "gcc") else { return };
    same("gcc", |side| {
        let main = "int main(void) { return f0(0, 5) == 5 ? 0 : 1; }\n";
        fs::write(side.dir.join("generated.c"), c_file(250) + main).expect("a file is written");
        let compile = |args: &str| side.task(&gcc).args(args.split(' ')).run();
        let mut said = compile("-O2 -Wall -c generated.c -o generated.o");
        // The driver, cc1 and as.
        side.assert_processes(3);
        said += &compile("-O1 -S generated.c -o generated.s");
        said += &compile("generated.o -o program");
        side.helper(side.dir.join("program")).run();
        ["generated.o", "generated.s", "program"]
            .iter()
            .for_each(|name| said += &digest(name, &side.read(name)));
        said
    });
}

#[test]
fn gxx_makes_the_same_object_of_templates() {
    let Some(gxx) = installed("g++", "g++") else { return };
    same("g++", |side| {
        fs::copy(source("templates.cpp"), side.dir.join("templates.cpp"))
            .expect("a file is copied");
        let said = side
            .task(&gxx)
            .args("-std=c++20 -O1 -Wall -c templates.cpp -o templates.o".split(' '))
            .run();
        side.assert_processes(3);
        side.task(&gxx).args(["templates.o", "-o", "program"]).run();
        said + &digest("templates.o", &side.read("templates.o"))
            + &side.helper(side.dir.join("program")).run()
    });
}

#[test]
fn cpp_threads_exchange_the_same_parcels() {
    let Some(gxx) = installed("g++", "g++") else { return };
    same("exchange", |side| {
        side.helper(gxx.as_path())
            .args("-std=c++20 -O2 -pthread -o exchange".split(' '))
            .arg(source("exchange.cpp"))
            .run();
        let exchange = side.dir.join("exchange");
        (0..2).map(|_| side.task(&exchange).least_peak(20 * MIB).run()).collect()
    });
}

// Interpreters

#[test]
fn perl_prints_the_same_checksums() {
    let Some(perl) = installed("perl", "perl") else { return };
    same("perl", |side| {
        side.task(&perl)
            .arg(source("churn.pl"))
            .env("PERL_HASH_SEED", "0")
            .least_peak(20 * MIB)
            .run()
    });
}

#[test]
fn node_workers_return_the_same_buffers() {
    let Some(node) = installed("node", "nodejs") else { return };
    same("node", |side| side.task(&node).arg(source("workers.js")).least_peak(20 * MIB).run());
}

#[test]
fn lua_builds_the_same_tables() {
    let Some(lua) = installed("lua5.4", "lua5.4") else { return };
    same("lua5.4", |side| side.task(&lua).arg(source("tables.lua")).least_peak(5 * MIB).run());
}

// A Rust program from crates.io, rebuilt

/// Builds the programs of tests/rebuilt and returns where they are.
fn rebuilt() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rebuilt");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rebuilt/Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .status();
        assert!(built.is_ok_and(|status| status.success()), "tests/rebuilt does not build");
        target.join("release")
    })
}

#[test]
fn jaq_rebuilt_on_cidalloc_prints_the_same() {
    let mut input = String::new();
    let mut state = 20_u64;
    let mut random = |n: u64| {
        state = state * 48271 % 2_147_483_647;
        state % n
    };
    for id in 0..4000 {
        let tags: Vec<String> = (0..random(8)).map(|_| format!("\"t{}\"", random(100))).collect();
        writeln!(
            input,
            r#"{{"id":{id},"tags":[{}],"name":"n{} é","nested":{{"a":[{}.5,null,true],"b":{{"k{}":{}}}}}}}"#,
            tags.join(","),
            random(1000),
            random(1000),
            random(50),
            random(2_000_000_000),
        )
        .expect("a String grows");
    }
    let filter = r#"{
        id,
        tags: (.tags | sort | unique | group_by(.[0:2]) | map(join("+"))),
        name: (.name | gsub("n(?<d>[0-9])"; "<\(.d)>") | ascii_upcase),
        sum: ([.nested.a[] | numbers] | add),
        keys: (.nested.b | to_entries | map("\(.key)=\(.value)")),
        words: ([range(20)] | map(tostring) | join(",") | split(",") | length),
        paths: (tojson | fromjson | [paths] | length)
    }"#;
    let outputs = ["on_system", "on_cidalloc"].map(|program| {
        let side = Side::new(&format!("rebuilt-{program}"), program == "on_cidalloc");
        fs::write(side.dir.join("input.json"), &input).expect("the input is written");
        let program = rebuilt().join(program);
        side.linked(&program).args([filter, "input.json", "4"]).least_peak(MIB).run()
    });
    assert!(outputs[0].lines().count() == 4000, "one line for each value");
    support::assert_same("rebuilt jaq", &outputs[0], &outputs[1]);
}

// What the tests above rest on

#[test]
#[should_panic(expected = "sleep 60")]
fn a_child_that_hangs_is_named_and_killed() {
    let side = Side::new("hang", false);
    side.helper("/bin/sleep").arg("60").limit(Duration::from_millis(200)).run();
}

#[test]
#[should_panic(expected = "no statistics")]
fn a_child_that_does_not_run_on_cidalloc_is_found() {
    let side = Side::new("no-statistics", true);
    side.linked("/bin/true").run();
}

#[test]
#[should_panic(expected = "on cidalloc: Some(\"b\")")]
fn a_difference_is_found() {
    support::assert_same("difference", "a\na\n", "a\nb\n");
}

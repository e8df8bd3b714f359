//! The `cidalloc` command, as built: what it prints is compared with what the test reads itself.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

mod common;

// ---- what is under test

/// The directory that holds both the command and the library.
fn release_directory() -> PathBuf {
    let directory = common::build_ffi();
    assert_eq!(common::build_cli().parent(), Some(directory.as_path()));
    directory
}

/// The command, in an environment without any of its variables.
fn cidalloc() -> Command {
    release_directory();
    common::command(common::build_cli())
}

fn run(arguments: &[&str]) -> Output {
    cidalloc().arg("run").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn doctor() -> Value {
    json(&cidalloc().args(["doctor", "--json"]).output().unwrap())
}

// ---- what the machine says

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

fn number(path: &str) -> Option<u64> {
    line(path)?.parse().ok()
}

/// The word in brackets of a file in sysfs.
fn chosen(path: &str) -> Option<String> {
    let line = line(path)?;
    Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// An entry of this process's auxiliary vector.
fn auxiliary(kind: u64) -> Option<u64> {
    let bytes = fs::read("/proc/self/auxv").unwrap();
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    words.chunks_exact(2).find(|pair| pair[0] == kind).map(|pair| pair[1])
}

/// The soft limit in a line of /proc/self/limits, as the report gives it.
fn limit(name: &str) -> Value {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    match line[name.len()..].split_whitespace().next().unwrap() {
        "unlimited" => "unlimited".into(),
        bytes => bytes.parse::<u64>().unwrap().into(),
    }
}

fn status_field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let (_, value) = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| *field == name)
        .unwrap();
    value.trim().to_owned()
}

/// The reason given for a fallback; None if it is not listed.
fn fallback<'a>(report: &'a Value, what: &str) -> Option<&'a str> {
    let fallbacks = report["fallbacks"].as_array().unwrap();
    fallbacks.iter().find(|fallback| fallback["what"] == what)?["reason"].as_str()
}

// ---- doctor

#[test]
fn doctor_reports_what_proc_and_sys_say() {
    let report = doctor();
    assert_eq!(report["kernel"]["release"], line("/proc/sys/kernel/osrelease").unwrap());
    assert_eq!(report["kernel"]["machine"], std::env::consts::ARCH);
    let cpus = &report["cpus"];
    assert_eq!(
        cpus["possible"]["list"].as_str().map(str::to_owned),
        line("/sys/devices/system/cpu/possible")
    );
    assert_eq!(cpus["allowed"]["list"], status_field("Cpus_allowed_list"));
    assert_eq!(
        cpus["allowed"]["count"],
        std::thread::available_parallelism().unwrap().get().max(1)
    );

    const AT_PAGESZ: u64 = 6;
    let memory = &report["memory"];
    assert_eq!(memory["page_size"].as_u64(), auxiliary(AT_PAGESZ));
    let thp = "/sys/kernel/mm/transparent_hugepage";
    assert_eq!(
        memory["thp"]["enabled"].as_str().map(str::to_owned),
        chosen(&format!("{thp}/enabled"))
    );
    assert_eq!(
        memory["thp"]["defrag"].as_str().map(str::to_owned),
        chosen(&format!("{thp}/defrag"))
    );
    assert_eq!(memory["thp"]["hugepage_size"].as_u64(), number(&format!("{thp}/hpage_pmd_size")));
    let limits = &memory["limits"];
    assert_eq!(limits["address_space"], limit("Max address space"));
    assert_eq!(limits["data"], limit("Max data size"));
    assert_eq!(limits["locked_memory"], limit("Max locked memory"));
    assert_eq!(limits["overcommit_memory"].as_u64(), number("/proc/sys/vm/overcommit_memory"));
    assert_eq!(limits["max_map_count"].as_u64(), number("/proc/sys/vm/max_map_count"));
}

#[test]
fn doctor_reports_rseq_consistently() {
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    const AT_RSEQ_ALIGN: u64 = 28;
    let report = doctor();
    let (own, rseq) = (&report["allocator"], &report["rseq"]);
    assert_eq!(rseq["feature_size"].as_u64(), auxiliary(AT_RSEQ_FEATURE_SIZE));
    assert_eq!(rseq["align"].as_u64(), auxiliary(AT_RSEQ_ALIGN));

    // The kernel's word against the allocator's.
    assert!(["rseq", "locked"].contains(&own["mode"].as_str().unwrap()));
    if own["mode"] == "rseq" {
        assert_eq!(own["registration"], rseq["registered_by"]);
        assert!(rseq["registered_length"].as_u64().unwrap() >= 32);
        assert_eq!(own["index"] == "mm_cid", rseq["mm_cid"] == true);
        assert_eq!(report["membarrier"]["private_expedited_rseq"], true);
        assert_eq!(report["membarrier"]["registered_by_allocator"], true);
    }
    let length = rseq["registered_length"].as_u64();
    let feature_size = rseq["feature_size"].as_u64().unwrap_or(0);
    let mode = match length {
        None => "none",
        Some(length) if feature_size >= 33 && length >= feature_size => "V2",
        Some(_) => "legacy",
    };
    assert_eq!(rseq["abi_mode"], mode);

    // Less than the best is named with its reason, the best is not.
    let slice = report["slice_extension"]["state"].as_str().unwrap();
    let best = [
        ("mode", own["mode"] == "rseq"),
        ("index", own["index"] == "mm_cid"),
        ("registration", rseq["registered_by"] == "libc"),
        ("abi_mode", mode == "V2"),
        ("slice_extension", ["available", "enabled"].contains(&slice)),
        ("membarrier", report["membarrier"]["private_expedited_rseq"] == true),
    ];
    for (what, is_best) in best {
        assert_eq!(fallback(&report, what).is_none(), is_best, "{what}: {report:#}");
    }
    for listed in report["fallbacks"].as_array().unwrap() {
        assert_ne!(listed["reason"], "", "{listed}");
    }
}

#[test]
fn doctor_sees_the_limits_and_cpus_it_is_given() {
    let binary = release_directory().join("cidalloc");
    let cpu = status_field("Cpus_allowed_list");
    let cpu = cpu.split(['-', ',']).next().unwrap();
    let script =
        format!("ulimit -v 8000000 && exec taskset -c {cpu} {} doctor --json", binary.display());
    let report = json(&common::command("sh").args(["-c", &script]).output().unwrap());
    assert_eq!(report["memory"]["limits"]["address_space"], 8_000_000u64 * 1024);
    assert!(fallback(&report, "address_space").unwrap().contains("RLIMIT_AS"));
    assert_eq!(report["cpus"]["allowed"]["list"], cpu);
    assert_eq!(report["cpus"]["allowed"]["count"], 1);
}

#[test]
fn doctor_shows_the_fallback_asked_for() {
    let with = |name: &str, value: &str| {
        json(&cidalloc().args(["doctor", "--json"]).env(name, value).output().unwrap())
    };
    let off = with("CIDALLOC_RSEQ", "off");
    assert_eq!(off["allocator"]["mode"], "locked");
    assert!(fallback(&off, "mode").is_some());
    if doctor()["allocator"]["mode"] != "rseq" {
        return; // No sequences on this machine: the rest has nothing to choose from.
    }
    let cpu_id = with("CIDALLOC_INDEX", "cpu_id");
    assert_eq!(cpu_id["allocator"]["index"], "cpu_id");
    assert!(fallback(&cpu_id, "index").is_some());
    // Here the C library leaves the registration to others.
    let own = with("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    if own["rseq"]["libc_size"] == 0 {
        assert_eq!(own["allocator"]["registration"], "own");
        assert_eq!(own["rseq"]["registered_by"], "own");
        assert!(fallback(&own, "registration").unwrap().contains("__rseq_size is 0"));
    }
}

#[test]
fn doctor_prints_text_and_survives_a_closed_pipe() {
    let text = stdout(&cidalloc().arg("doctor").output().unwrap());
    for section in
        ["cidalloc\n", "\nsystem\n", "\nrestartable sequences\n", "\nmemory\n", "\nfallbacks\n"]
    {
        assert!(text.contains(section), "{section:?} in {text}");
    }
    assert!(text.contains(&line("/proc/sys/kernel/osrelease").unwrap()));

    let mut child =
        cidalloc().arg("doctor").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
}

// ---- run

#[test]
fn run_preloads_the_library_before_what_was_preloaded() {
    let library = release_directory().join("libcidalloc.so");
    let plain = run(&["--", "sh", "-c", "echo $LD_PRELOAD"]);
    assert_eq!(stdout(&plain).trim_end(), library.to_str().unwrap());
    let maps = run(&["--", "cat", "/proc/self/maps"]);
    assert!(stdout(&maps).contains(library.to_str().unwrap()));

    let both = cidalloc()
        .args(["run", "--", "sh", "-c", "echo $LD_PRELOAD"])
        .env("LD_PRELOAD", "libm.so.6")
        .output()
        .unwrap();
    assert_eq!(stdout(&both).trim_end(), format!("{}:libm.so.6", library.display()));
}

#[test]
fn run_returns_the_exit_status() {
    for code in [0, 7, 255] {
        let script = format!("exit {code}");
        assert_eq!(run(&["--", "sh", "-c", &script]).status.code(), Some(code));
        assert_eq!(run(&["--stats", "--", "sh", "-c", &script]).status.code(), Some(code));
    }
    let kill = "kill -9 $$";
    // Without --stats the process is the command; with it the parent tells as shells do.
    assert_eq!(run(&["--", "sh", "-c", kill]).status.signal(), Some(9));
    assert_eq!(run(&["--stats", "--", "sh", "-c", kill]).status.code(), Some(128 + 9));
    for stats in [&[][..], &["--stats"]] {
        let status = |command: &str| run(&[stats, &["--", command]].concat()).status.code();
        assert_eq!(status("no-such-command-anywhere"), Some(127));
        assert_eq!(status("/no/such/file"), Some(127));
        assert_eq!(status("/etc/passwd"), Some(126));
        assert_eq!(status("/etc"), Some(126));
    }
}

#[test]
fn bad_usage_ends_with_status_2() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["run"],
        &["run", "--nonsense", "--", "true"],
        &["run", "--option", "rseq", "--", "true"],
    ] {
        assert_eq!(
            cidalloc().args(arguments).output().unwrap().status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    assert_eq!(run(&["--stats", "--option", "stats=1", "--", "true"]).status.code(), Some(2));
}

#[test]
fn run_passes_signals_on() {
    let script =
        "trap 'exit 12' TERM; trap 'exit 13' USR1; echo ready; while :; do sleep 0.05; done";
    for stats in [&[][..], &["--stats"]] {
        for (signal, expected) in [(libc::SIGTERM, 12), (libc::SIGUSR1, 13)] {
            let mut child = cidalloc()
                .arg("run")
                .args(stats)
                .args(["--", "sh", "-c", script])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut ready = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
            assert_eq!(ready, "ready\n");
            // SAFETY: the child has not been waited for, so the pid is its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
            assert_eq!(child.wait().unwrap().code(), Some(expected));
        }
    }
}

#[test]
fn the_command_inherits_signals_and_standard_input() {
    // SigBlk and SigIgn of the command are those of a process started without `cidalloc`.
    let masks = |mut command: Command| {
        stdout(
            &command.args(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]).output().unwrap(),
        )
    };
    let mut with = cidalloc();
    with.args(["run", "--stats", "--"]);
    assert_eq!(masks(with), masks(common::command("env")));

    let mut child = cidalloc()
        .args(["run", "--stats", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
    let mut echoed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut echoed).unwrap();
    assert_eq!((echoed.as_str(), child.wait().unwrap().code()), ("through", Some(0)));
}

/// The value after `label` in a summary.
fn summary<'a>(text: &'a str, label: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(label));
    line.unwrap_or_else(|| panic!("no {label} in {text}")).trim()
}

fn summary_count(text: &str, label: &str) -> u64 {
    summary(text, label).replace(',', "").parse().unwrap()
}

#[test]
fn stats_show_mode_allocations_and_peak() {
    let output =
        run(&["--stats", "--", "python3", "-c", "print(sum(len(str(i)) for i in range(1000)))"]);
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("2890\n", Some(0)));
    let text = stderr(&output);
    let own = doctor();
    let mode = format!(
        "{}, index {}",
        own["allocator"]["mode"].as_str().unwrap(),
        own["allocator"]["index"].as_str().unwrap()
    );
    assert!(summary(&text, "mode").starts_with(&mode), "{text}");
    let (allocations, frees) = (summary_count(&text, "allocations"), summary_count(&text, "frees"));
    // An interpreter's start alone takes thousands.
    assert!(allocations > 1000 && frees > 0 && frees <= allocations, "{text}");
    for label in ["peak", "live at exit", "layers"] {
        assert_ne!(summary(&text, label), "0 B", "{text}");
    }
}

#[test]
fn stats_count_descendants() {
    let script = "import subprocess, sys; subprocess.run([sys.executable, '-c', '[str(i) for i in range(9)]'])";
    let text = stderr(&run(&["--stats", "--", "python3", "-c", script]));
    let processes = summary(&text, "processes");
    let number: u64 = processes.split(' ').next().unwrap().parse().unwrap();
    assert!(number >= 2 && processes.contains("descendants: "), "{text}");
}

#[test]
fn stats_follow_the_options() {
    let text = stderr(&run(&["--stats", "--option", "rseq=off", "--", "python3", "-c", ""]));
    assert!(summary(&text, "mode").starts_with("locked, "), "{text}");
    assert_ne!(summary(&text, "fallback"), "");
}

#[test]
fn missing_statistics_are_explained_and_nothing_is_left_behind() {
    let temporary = common::temp_dir("left-behind");
    let with = |command: &[&str]| {
        let output = cidalloc()
            .args(["run", "--stats", "--"])
            .args(command)
            .env("TMPDIR", &temporary)
            .output()
            .unwrap();
        stderr(&output)
    };
    assert!(
        with(&["python3", "-c", "import os; os.kill(os.getpid(), 9)"])
            .contains("killed by signal 9")
    );
    with(&["true"]);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn static_programs_are_warned_about() {
    let program = common::temp_dir("static").join("five");
    let source = program.with_extension("c");
    let exit = if cfg!(target_arch = "aarch64") {
        "mov x0, #5; mov x8, #93; svc #0"
    } else {
        "mov $5, %edi; mov $60, %eax; syscall"
    };
    fs::write(&source, format!("void _start(void) {{ __asm__(\"{exit}\"); }}\n")).unwrap();
    let compiled = common::compiler(false)
        .args(["-static", "-nostdlib", "-o"])
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(compiled.success());

    let plain = run(&["--", program.to_str().unwrap()]);
    assert_eq!(plain.status.code(), Some(5));
    assert!(stderr(&plain).contains("is statically linked"), "{}", stderr(&plain));
    let counted = run(&["--stats", "--", program.to_str().unwrap()]);
    assert_eq!(counted.status.code(), Some(5));
    assert!(
        stderr(&counted).contains("wrote no statistics: it is statically linked"),
        "{}",
        stderr(&counted)
    );
    // A dynamic program is not.
    assert_eq!(stderr(&run(&["--", "true"])), "");
}

#[test]
fn set_user_id_programs_are_warned_about() {
    // SAFETY: cannot fail and has no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let program = if root {
        let program = common::temp_dir("setuid").join("true");
        fs::copy("/bin/true", &program).unwrap();
        chown(&program, Some(65534), None).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        program
    } else {
        PathBuf::from("/usr/bin/su")
    };
    if ignores_set_user_id(&program) {
        return; // And then there is nothing to warn about.
    }
    let output = run(&["--", program.to_str().unwrap(), "--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("is set-user-id"), "{}", stderr(&output));
}

/// Whether the file system, or the process itself, gives set-user-id bits no effect.
fn ignores_set_user_id(program: &Path) -> bool {
    let Some(mount) =
        Command::new("findmnt").args(["-no", "OPTIONS", "-T"]).arg(program).output().ok()
    else {
        return true;
    };
    stdout(&mount).trim().split(',').any(|option| option == "nosuid")
        || status_field("NoNewPrivs") != "0"
}

// ---- the library

#[test]
fn the_library_is_found_where_documented() {
    let root = common::temp_dir("installed");
    let (binary, library) = (root.join("bin/cidalloc"), root.join("lib/libcidalloc.so"));
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::copy(release_directory().join("cidalloc"), &binary).unwrap();
    let preloaded = |arguments: &[&str], variable: Option<&Path>| {
        let mut command = common::command(&binary);
        command.arg("run").args(arguments).args(["--", "sh", "-c", "echo $LD_PRELOAD"]);
        if let Some(path) = variable {
            command.env("CIDALLOC_LIB", path);
        }
        command.output().unwrap()
    };

    let nowhere = preloaded(&[], None);
    assert_eq!((nowhere.status.code(), stdout(&nowhere).as_str()), (Some(125), ""));
    for hint in ["libcidalloc.so not found", "--lib", "CIDALLOC_LIB", library.to_str().unwrap()] {
        assert!(stderr(&nowhere).contains(hint), "{hint} in {}", stderr(&nowhere));
    }

    let built = release_directory().join("libcidalloc.so");
    assert_eq!(stdout(&preloaded(&[], Some(&built))).trim_end(), built.to_str().unwrap());
    fs::copy(&built, &library).unwrap();
    assert_eq!(stdout(&preloaded(&[], None)).trim_end(), library.to_str().unwrap());
    let beside = binary.with_file_name("libcidalloc.so");
    fs::copy(&built, &beside).unwrap();
    assert_eq!(stdout(&preloaded(&[], None)).trim_end(), beside.to_str().unwrap());
    // What is named goes before what is found, and --lib before the variable.
    assert_eq!(stdout(&preloaded(&[], Some(&library))).trim_end(), library.to_str().unwrap());
    let named = preloaded(&["--lib", built.to_str().unwrap()], Some(&library));
    assert_eq!(stdout(&named).trim_end(), built.to_str().unwrap());
    // What is named and missing is an error, whatever could be found.
    let missing = preloaded(&["--lib", "/no/such/libcidalloc.so"], None);
    assert_eq!(missing.status.code(), Some(125));
    assert!(stderr(&missing).contains("/no/such/libcidalloc.so"));
}

#[test]
fn a_path_that_ld_preload_cannot_name_is_refused() {
    for name in ["with space", "with:colon"] {
        let path = common::temp_dir(name).join("libcidalloc.so");
        fs::copy(release_directory().join("libcidalloc.so"), &path).unwrap();
        let output = run(&["--lib", path.to_str().unwrap(), "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("cannot be preloaded"));
    }
}

// ---- options

#[test]
fn options_reach_the_command() {
    let output = run(&["--option", "rseq=off", "--option", "CIDALLOC_COUNT=1", "--", "env"]);
    let environment = stdout(&output);
    assert!(environment.lines().any(|line| line == "CIDALLOC_RSEQ=off"), "{environment}");
    assert!(environment.lines().any(|line| line == "CIDALLOC_COUNT=1"), "{environment}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn an_unknown_option_is_reported_once_and_ignored() {
    let output = run(&["--option", "no_such=1", "--", "sh", "-c", "/bin/true; /bin/true; exit 4"]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(stderr(&output).matches("CIDALLOC_NO_SUCH").count(), 1, "{}", stderr(&output));
}

#[test]
fn a_value_out_of_range_is_reported_once_and_ignored() {
    // A program that allocates: the options are read with the first allocation.
    let output = run(&["--option", "count=maybe", "--", "ls", "/"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output).matches("CIDALLOC_COUNT").count(), 1, "{}", stderr(&output));
}

#[test]
fn help_lists_every_option() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    // Meanings are wrapped: compare word by word.
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!cidalloc::config::OPTIONS.is_empty());
    for option in &cidalloc::config::OPTIONS {
        let unit = if option.unit == "-" { String::new() } else { format!(" {}", option.unit) };
        let entry = format!(
            "{} {}{unit} [default: {}] {}",
            option.name, option.range, option.default, option.meaning
        );
        assert!(words.contains(&entry), "{entry:?} in {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

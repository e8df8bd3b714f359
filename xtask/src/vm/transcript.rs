//! What a guest says, as it comes: what the command wrote, how it ended, and the
//! kernel's log. `init.sh` says how it is told.

/// How far a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It boots.
    Booting,
    /// The command runs.
    Running,
    /// The command has ended, with this status; the log is not complete.
    Ended(i32),
    /// Everything has come.
    Off(i32),
}

#[derive(Debug)]
pub struct Transcript {
    mark: String,
    stage: Stage,
    /// The line that is not complete yet.
    rest: Vec<u8>,
    /// The last line was empty: it may belong to the mark of the end.
    has_empty_line: bool,
    output: String,
    log: String,
}

impl Transcript {
    /// No line of a command starts with the mark.
    pub fn new(mark: &str) -> Self {
        Transcript {
            mark: mark.to_owned(),
            stage: Stage::Booting,
            rest: Vec::new(),
            has_empty_line: false,
            output: String::new(),
            log: String::new(),
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes what came, and tells the lines of the command that it completes.
    pub fn take(&mut self, bytes: &[u8], each_line: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.rest);
                let line = String::from_utf8_lossy(&line[..line.len() - 1]).into_owned();
                self.line(&line, each_line);
            }
        }
    }

    /// Nothing more will come. Returns what the command wrote, and the log.
    pub fn finish(mut self, each_line: &mut dyn FnMut(&str)) -> (String, String) {
        if self.stage == Stage::Running {
            self.empty_line(each_line);
            if !self.rest.is_empty() {
                let rest = String::from_utf8_lossy(&self.rest).into_owned();
                each_line(&rest);
                self.output.push_str(&rest);
            }
        }
        (self.output, self.log)
    }

    fn line(&mut self, line: &str, each_line: &mut dyn FnMut(&str)) {
        let message = line.strip_prefix(&self.mark).map(str::trim);
        match (self.stage, message) {
            (Stage::Booting, Some("begin")) => self.stage = Stage::Running,
            (Stage::Booting, _) => {}
            (Stage::Running, Some(message)) => {
                let status = message.strip_prefix("end ").and_then(|status| status.parse().ok());
                self.stage = Stage::Ended(status.unwrap_or(-1));
                if !self.has_empty_line {
                    // The command's last line had no end.
                    self.output.pop();
                }
            }
            (Stage::Running, None) => {
                self.empty_line(each_line);
                self.has_empty_line = line.is_empty();
                if !self.has_empty_line {
                    self.tell(line, each_line);
                }
            }
            (Stage::Ended(status), Some("off")) => self.stage = Stage::Off(status),
            (Stage::Ended(_), _) => {
                self.log.push_str(line);
                self.log.push('\n');
            }
            (Stage::Off(_), _) => {}
        }
    }

    /// The empty line was the command's.
    fn empty_line(&mut self, each_line: &mut dyn FnMut(&str)) {
        if std::mem::take(&mut self.has_empty_line) {
            self.tell("", each_line);
        }
    }

    fn tell(&mut self, line: &str, each_line: &mut dyn FnMut(&str)) {
        each_line(line);
        self.output.push_str(line);
        self.output.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stage, the lines, the output and the log of what came in pieces so long.
    fn told(text: &[u8], piece: usize) -> (Stage, Vec<String>, String, String) {
        let mut transcript = Transcript::new("@7");
        let mut lines = Vec::new();
        let mut each_line = |line: &str| lines.push(line.to_owned());
        for piece in text.chunks(piece) {
            transcript.take(piece, &mut each_line);
        }
        let stage = transcript.stage();
        let (output, log) = transcript.finish(&mut each_line);
        (stage, lines, output, log)
    }

    #[test]
    fn output_comes_as_it_was_written() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("a\n", &["a"]),
            ("a", &["a"]),
            ("\n", &[""]),
            ("a\n\n", &["a", ""]),
            ("\n\nb", &["", "", "b"]),
            ("@6 end 1\n@ 7\nab\ncd", &["@6 end 1", "@ 7", "ab", "cd"]),
        ];
        for (written, due) in cases {
            let text = format!("noise\n@7 begin\n{written}\n@7 end 3\none\n\ntwo\n@7 off\nmore\n");
            for piece in [1, 2, 7, 1000] {
                let (stage, lines, output, log) = told(text.as_bytes(), piece);
                assert_eq!(stage, Stage::Off(3));
                assert_eq!(lines, due, "{written:?}");
                assert_eq!(output, written);
                assert_eq!(log, "one\n\ntwo\n");
            }
        }
    }

    #[test]
    fn a_guest_that_dies_has_said_what_it_said() {
        assert_eq!(told(b"noise\n", 3), (Stage::Booting, vec![], String::new(), String::new()));
        let (stage, lines, output, _) = told(b"@7 begin\na\n\nb", 2);
        assert_eq!((stage, output.as_str()), (Stage::Running, "a\n\nb"));
        assert_eq!(lines, ["a", "", "b"]);
        let (stage, _, output, log) = told(b"@7 begin\na\n\n@7 end 139\n[1] trap\n[2", 5);
        assert_eq!(stage, Stage::Ended(139));
        assert_eq!((output.as_str(), log.as_str()), ("a\n", "[1] trap\n"));
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        let (stage, lines, ..) = told(b"@7 begin\n\xff\x00x\n\n@7 end 0\n@7 off\n", 4);
        assert_eq!(stage, Stage::Off(0));
        assert_eq!(lines, ["\u{fffd}\0x"]);
    }
}

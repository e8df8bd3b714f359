//! Text to a file descriptor, formatted in a fixed buffer: nothing allocates.

use crate::os::sys;
use core::fmt;

/// Collects text and writes it out whenever 1 KiB has come together.
#[derive(Debug)]
pub struct Output {
    fd: i32,
    used: usize,
    buffer: [u8; 1024],
}

impl Output {
    pub fn new(fd: i32) -> Output {
        Output { fd, used: 0, buffer: [0; 1024] }
    }

    /// Standard error.
    pub fn stderr() -> Output {
        Output::new(2)
    }

    pub fn flush(&mut self) {
        let mut rest = self.buffer.get(..self.used).unwrap_or_default();
        while !rest.is_empty() {
            match sys::write(self.fd, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(libc::EINTR) => {}
                Err(_) => break,
            }
        }
        self.used = 0;
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.buffer.len() {
                self.flush();
            }
            if let Some(slot) = self.buffer.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
    }
}

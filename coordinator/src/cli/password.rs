//! A password from a file, the terminal, or standard input; never from the command line, where every user of the machine can read it.

use super::exit::{self, Failure};
use proximity_protocol::secret::SecretText;
use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};
use zeroize::Zeroizing;

/// Reads it. On a terminal it is asked twice, without echo.
pub(super) fn read(file: Option<&Path>) -> Result<SecretText, Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::new(exit::FAILED, format!("cannot read the password from {what}: {error}"))
    };
    if let Some(path) = file {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| failed(&path.display().to_string(), e))?);
        return first_line(&text);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let first = ask("Password: ").map_err(|e| failed("the terminal", e))?;
        let second = ask("Again: ").map_err(|e| failed("the terminal", e))?;
        if *first != *second {
            return Err(Failure::new(
                exit::REFUSED,
                "the two passwords differ; nothing was changed",
            ));
        }
        return first_line(&first);
    }
    let mut text = Zeroizing::new(String::new());
    stdin
        .lock()
        .read_line(&mut text)
        .map_err(|e| failed("standard input", e))?;
    first_line(&text)
}

fn first_line(text: &str) -> Result<SecretText, Failure> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(
            exit::REFUSED,
            "there is no password: give it on standard input or with --password-file",
        ));
    }
    Ok(SecretText::new(line))
}

fn ask(prompt: &str) -> io::Result<Zeroizing<String>> {
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    let silent = Silent::begin()?;
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().lock().read_line(&mut text);
    drop(silent);
    eprintln!();
    read?;
    Ok(text)
}

/// The terminal without echo, until it is dropped.
struct Silent(nix::sys::termios::Termios);

impl Silent {
    fn begin() -> io::Result<Self> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0) {
            eprintln!("the terminal's echo could not be turned on again ({error}); run: stty echo");
        }
    }
}

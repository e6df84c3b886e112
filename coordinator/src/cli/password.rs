//! A password or a passphrase from a file, the terminal, or standard input; never from the command line, where every user of the machine can read it.

use super::exit::{self, Failure};
use proximity_protocol::secret::SecretText;
use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};
use zeroize::Zeroizing;

/// What is read, in words and by the flag that names its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) word: &'static str,
    pub(super) flag: &'static str,
    /// Whether it is new, so that a slip of the hand must not pass.
    pub(super) new: bool,
}

/// Of a user.
pub(super) const PASSWORD: What = What {
    word: "password",
    flag: "--password-file",
    new: true,
};

/// Reads it. On a terminal a new one is asked twice, without echo.
pub(super) fn read(what: What, file: Option<&Path>) -> Result<SecretText, Failure> {
    let word = what.word;
    let failed = |from: &str, error: io::Error| {
        Failure::new(exit::FAILED, format!("cannot read the {word} from {from}: {error}"))
    };
    if let Some(path) = file {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| failed(&path.display().to_string(), e))?);
        return first_line(what, &text);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let prompt = format!("{}{}: ", word[..1].to_uppercase(), &word[1..]);
        let first = ask(&prompt).map_err(|e| failed("the terminal", e))?;
        if what.new && *ask("Again: ").map_err(|e| failed("the terminal", e))? != *first {
            return Err(Failure::new(
                exit::REFUSED,
                format!("the two {word}s differ; nothing was changed"),
            ));
        }
        return first_line(what, &first);
    }
    let mut text = Zeroizing::new(String::new());
    stdin
        .lock()
        .read_line(&mut text)
        .map_err(|e| failed("standard input", e))?;
    first_line(what, &text)
}

fn first_line(what: What, text: &str) -> Result<SecretText, Failure> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(
            exit::REFUSED,
            format!(
                "there is no {}: give it on standard input or with {}",
                what.word, what.flag
            ),
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

//! Where a join token comes from: a file, stdin, a prompt. Never the command line, which every user of the machine can read, and which the shell keeps.

use crate::cli::{
    exit::{FAILED, TOKEN_UNREADABLE, USAGE},
    failure::Failure,
};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use proximity_protocol::token::JoinToken;
use std::{
    ffi::OsStr,
    io::{self, IsTerminal, Read, Write},
    os::fd::AsFd,
    path::Path,
};
use zeroize::Zeroizing;

/// A token is far longer; names of files are not.
const SECRET_LEN: usize = 40;
/// A token is far shorter.
const TOKEN_LEN_MAX: u64 = 16 * 1024;

/// Whether a word of the command line holds a join token, whichever way it was meant.
fn token_in(word: &OsStr) -> Option<String> {
    let word = word.to_string_lossy();
    let is_body = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    word.match_indices("pxj").find_map(|(at, _)| {
        let candidate: String = word[at..].chars().take_while(|c| is_body(*c)).collect();
        (candidate.len() >= SECRET_LEN).then_some(candidate)
    })
}

/// Refuses a token on the command line, and does not say it again.
pub(in crate::cli) fn refuse_in_words<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> Result<(), Failure> {
    let Some(token) = words.into_iter().find_map(token_in) else {
        return Ok(());
    };
    let which = match token.parse::<JoinToken>() {
        Ok(token) => format!(
            "revoke the token {} (`proximity-coordinator token revoke {0}`)",
            token.id
        ),
        Err(_) => "revoke that token".to_owned(),
    };
    Err(Failure::new(
        USAGE,
        format!(
            "a join token does not belong on the command line, where every user of the machine can read it and the shell keeps it: {which}, \
             make a new one, and give it by --token-file, by `-` (stdin), or at the prompt"
        ),
    ))
}

/// Reads it. `file`: `-` is stdin, and so is none if stdin is no terminal.
pub(super) fn read(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    if let Some(path) = file.filter(|path| *path != Path::new("-")) {
        let opened = std::fs::File::open(path).and_then(read_bounded);
        return opened.map_err(|error| {
            Failure::new(
                TOKEN_UNREADABLE,
                format!("cannot read the join token from {}: {error}", path.display()),
            )
        });
    }
    let stdin = io::stdin();
    let read = if stdin.is_terminal() {
        prompt(&stdin)
    } else {
        read_bounded(stdin)
    };
    read.map_err(|error| Failure::new(FAILED, format!("cannot read the join token from stdin: {error}")))
}

fn read_bounded(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source.take(TOKEN_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// What is typed is not shown, from before it is asked for: what is typed or pasted at once counts too.
fn prompt(stdin: &io::Stdin) -> io::Result<Zeroizing<String>> {
    let before = tcgetattr(stdin.as_fd())?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &quiet)?;
    eprint!("Join token (it is not shown): ");
    let mut line = Zeroizing::new(String::new());
    let read = io::stderr().flush().and_then(|()| stdin.read_line(&mut line));
    tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &before)?;
    eprintln!();
    read.map(|_| line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{ids::JoinTokenId, secret::Secret256};

    #[test]
    fn a_token_is_found_in_any_word_and_never_said() {
        let id = JoinTokenId(uuid::Uuid::from_u128(7));
        let token = JoinToken::new(vec!["c:4433".into()], [1; 32], id, Secret256::new([9; 32])).unwrap();
        let line = token.to_line().to_string();
        for word in [
            line.clone(),
            format!("--token={line}"),
            format!("--token-file={line}"),
            format!(" {line}\n"),
            line[..line.len() - 3].to_owned(),
            line.replacen("pxj1", "pxj2", 1),
        ] {
            let failure = refuse_in_words([OsStr::new("join"), OsStr::new(&word)]).unwrap_err();
            assert_eq!(failure.code, USAGE);
            assert!(!failure.message.contains(&line[8..30]), "{}", failure.message);
            assert!(failure.message.contains("--token-file"));
        }
        let whole = refuse_in_words([OsStr::new(&line)]).unwrap_err();
        assert!(whole.message.contains(&id.to_string()), "{}", whole.message);
        for harmless in [
            "join",
            "--token-file",
            "/root/pxj1-token.txt",
            "-",
            "pxj1-",
            "--config=/etc/pxj.toml",
        ] {
            refuse_in_words([OsStr::new(harmless)]).unwrap();
        }
    }
}

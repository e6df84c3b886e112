//! What can be run inside a hollow container. Every command line is recorded in `exec.log`; a few are played: those that
//! the recipe runner uses, and what the transcripts run. Anything else fails loudly with exit 99.
//!
//! `/bin/sh /var/lib/proximity/recipe/install` marks the app as installed; `…/health` and `…/files/configure` fail until then; `…/run`
//! runs one of them. Each must have been pushed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::inside;
use crate::body::{BodyError, Ct, Stdio, io_at};
use crate::call::EXIT_NOT_SIMULATED;

const RECIPE: &str = "/var/lib/proximity/recipe";
/// What a shell says when the word is no command of its own or the container's.
const NOT_FOUND: i32 = 127;

struct Words<'a, 'b> {
    ct: &'a Ct<'b>,
    stdio: Stdio<'a>,
    keep_env: bool,
}

pub(super) fn exec(ct: &Ct<'_>, argv: &[String], keep_env: bool, stdio: Stdio<'_>) -> Result<i32, BodyError> {
    let log = ct.layout.guest_dir(ct.vmid).join("exec.log");
    let line = serde_json::to_string(argv).map_err(|error| BodyError::Failed(error.to_string()))?;
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&log)
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(io_at(&log))?;
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let Stdio {
        stdin,
        out,
        err,
        inherit,
    } = stdio;
    // Borrowed anew, so that all lifetimes are the shortest.
    Words {
        ct,
        stdio: Stdio {
            stdin: &mut *stdin,
            out: &mut *out,
            err: &mut *err,
            inherit,
        },
        keep_env,
    }
    .run(&argv)
}

impl Words<'_, '_> {
    fn out(&mut self, text: &str) -> Result<i32, BodyError> {
        self.stdio
            .out
            .write_all(text.as_bytes())
            .map_err(|_| BodyError::BrokenPipe)?;
        Ok(0)
    }

    fn err(&mut self, text: &str, code: i32) -> i32 {
        // Nobody to read an error is no error.
        let _ = writeln!(self.stdio.err, "{text}");
        code
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        inside(self.ct.layout, self.ct.vmid, path)
    }

    fn run(&mut self, argv: &[&str]) -> Result<i32, BodyError> {
        let Some((program, rest)) = argv.split_first() else {
            return Ok(0);
        };
        let name = match program.rsplit_once('/') {
            Some(("/bin" | "/usr/bin" | "/sbin" | "/usr/sbin", name)) => name,
            _ => program,
        };
        match (name, rest) {
            ("true", _) => Ok(0),
            ("false", _) => Ok(1),
            ("echo", words) => self.out(&format!("{}\n", words.join(" "))),
            ("sh" | "bash", ["-c", script, ..]) => self.script(script),
            ("sh" | "bash", [script, words @ ..]) => self.script_file(script, words),
            ("env", []) => self.environment(),
            ("env" | "timeout" | "nice", words) => {
                // `env A=b cmd`, `timeout 5 cmd`: the command behind.
                let skip = words.iter().take_while(|word| word.contains('=') || word.starts_with('-') || word.parse::<u64>().is_ok()).count();
                self.run(&words[skip..])
            }
            ("hostname", []) => {
                let name = super::hostname(self.ct);
                self.out(&format!("{name}\n"))
            }
            ("mkdir", words) => self.mkdir(words),
            ("chmod", [mode, files @ ..]) => self.chmod(mode, files),
            ("chown" | "sync" | "touch", files) => {
                if name == "touch" {
                    for file in files {
                        let path = self.path(file);
                        fs::OpenOptions::new().append(true).create(true).open(&path).map_err(io_at(&path))?;
                    }
                }
                Ok(0)
            }
            ("cat", files) => self.cat(files),
            ("ls", ["-1", folder] | [folder]) => self.ls(folder),
            ("rm", words) => self.rm(words),
            ("test" | "[", words) => Ok(self.test(words)),
            (program, _) if program.starts_with('/') && program.starts_with(RECIPE) => self.script_file(program, rest),
            (program, _) if program.starts_with('/') && !self.path(program).exists() => Ok(self.err(
                &format!(
                    "lxc-attach: {}: ../src/lxc/attach.c: lxc_attach_run_command: 1841 No such file or directory - Failed to exec \"{program}\"",
                    self.ct.vmid
                ),
                NOT_FOUND,
            )),
            _ => Ok(self.err(&format!("pve-sim: not simulated: exec {}", argv.join(" ")), EXIT_NOT_SIMULATED)),
        }
    }

    /// `run`, `install`, `health` and `files/configure` of the recipe. `run` is the agent's own: it runs another and keeps its exit code in `end`.
    fn script_file(&mut self, script: &str, words: &[&str]) -> Result<i32, BodyError> {
        if !self.path(script).is_file() {
            return Ok(self.err(&format!("sh: 0: cannot open {script}: No such file"), 2));
        }
        let mark = self.ct.layout.guest_dir(self.ct.vmid).join("installed");
        match script.strip_prefix(RECIPE).map(|name| name.trim_start_matches('/')) {
            Some("install") => {
                fs::write(&mark, "").map_err(io_at(&mark))?;
                super::kernel::show_listening(self.ct.layout, self.ct.vmid)?;
                super::nudge(self.ct)?;
                self.out("simulated by pve-sim (hollow body): nothing was really installed\n")
            }
            Some("run") => {
                let script = words.get(1).unwrap_or(&"install");
                let code = self.script_file(&format!("{RECIPE}/{script}"), &[])?;
                let end = self.path(&format!("{RECIPE}/end"));
                let text = format!("{} {code}\n", words.first().unwrap_or(&""));
                fs::write(&end, text).map_err(io_at(&end))?;
                Ok(code)
            }
            Some("health" | "files/configure") if mark.exists() => Ok(0),
            Some("health" | "files/configure") => {
                Ok(self.err("simulated by pve-sim (hollow body): not installed yet", 1))
            }
            _ => Ok(self.err(&format!("pve-sim: not simulated: exec sh {script}"), EXIT_NOT_SIMULATED)),
        }
    }

    /// A small part of the shell: simple commands joined by `;`, `&&`, newline.
    fn script(&mut self, script: &str) -> Result<i32, BodyError> {
        let mut code = 0;
        for (and, command) in split(script) {
            if and && code != 0 {
                continue;
            }
            let words: Vec<&str> = command
                .split_whitespace()
                .map(|word| word.trim_matches(['\'', '"']))
                .collect();
            code = match words.as_slice() {
                [] => continue,
                ["exit", number] => return Ok(number.parse().unwrap_or(2)),
                ["exec", rest @ ..] => return self.run(rest),
                ["set", ..] | ["umask", ..] => 0,
                ["kill", "-9", "$$"] => return Ok(137),
                ["echo", rest @ .., ">&2"] => self.err(&rest.join(" "), 0),
                words => self.run(words)?,
            };
            if code == EXIT_NOT_SIMULATED {
                return Ok(code);
            }
        }
        Ok(code)
    }

    fn environment(&mut self) -> Result<i32, BodyError> {
        self.out(if self.keep_env {
            "USER=root\nHOME=/root\ncontainer=lxc\nTERM=linux\nPATH=/sbin:/bin:/usr/sbin:/usr/bin\nLANG=C.UTF-8\n"
        } else {
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\ncontainer=lxc\nTERM=linux\n"
        })
    }

    fn mkdir(&mut self, words: &[&str]) -> Result<i32, BodyError> {
        let mut parents = false;
        let mut mode = 0o755;
        let mut folders = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "-p" | "--parents" => parents = true,
                "-m" => {
                    mode = words
                        .next()
                        .and_then(|text| u32::from_str_radix(text, 8).ok())
                        .unwrap_or(mode)
                }
                "-pm" => {
                    parents = true;
                    mode = words
                        .next()
                        .and_then(|text| u32::from_str_radix(text, 8).ok())
                        .unwrap_or(mode);
                }
                "--" => {}
                word if word.starts_with("--mode=") => mode = u32::from_str_radix(&word[7..], 8).unwrap_or(mode),
                word if word.starts_with("-m") => mode = u32::from_str_radix(&word[2..], 8).unwrap_or(mode),
                folder => folders.push(folder),
            }
        }
        for folder in folders {
            let path = self.path(folder);
            if path.is_dir() && parents {
                continue;
            }
            let made = if parents {
                fs::create_dir_all(&path)
            } else {
                fs::create_dir(&path)
            };
            if let Err(error) = made {
                let reason = if error.kind() == std::io::ErrorKind::AlreadyExists {
                    "File exists"
                } else {
                    "No such file or directory"
                };
                return Ok(self.err(&format!("mkdir: cannot create directory '{folder}': {reason}"), 1));
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io_at(&path))?;
        }
        Ok(0)
    }

    fn chmod(&mut self, mode: &str, files: &[&str]) -> Result<i32, BodyError> {
        let Ok(mode) = u32::from_str_radix(mode, 8) else {
            return Ok(self.err(&format!("pve-sim: not simulated: chmod {mode}"), EXIT_NOT_SIMULATED));
        };
        for file in files {
            let path = self.path(file);
            if fs::set_permissions(&path, fs::Permissions::from_mode(mode)).is_err() {
                return Ok(self.err(&format!("chmod: cannot access '{file}': No such file or directory"), 1));
            }
        }
        Ok(0)
    }

    fn cat(&mut self, files: &[&str]) -> Result<i32, BodyError> {
        if files.is_empty() {
            let mut text = Vec::new();
            self.stdio
                .stdin
                .read_to_end(&mut text)
                .map_err(|_| BodyError::BrokenPipe)?;
            self.stdio.out.write_all(&text).map_err(|_| BodyError::BrokenPipe)?;
        }
        for file in files {
            match fs::read(self.path(file)) {
                Ok(bytes) => self.stdio.out.write_all(&bytes).map_err(|_| BodyError::BrokenPipe)?,
                Err(_) => return Ok(self.err(&format!("cat: {file}: No such file or directory"), 1)),
            }
        }
        Ok(0)
    }

    fn ls(&mut self, folder: &str) -> Result<i32, BodyError> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else {
            return Ok(self.err(&format!("ls: cannot access '{folder}': No such file or directory"), 2));
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        let text: String = names
            .iter()
            .filter(|name| !name.starts_with('.'))
            .map(|name| format!("{name}\n"))
            .collect();
        self.out(&text)
    }

    fn rm(&mut self, words: &[&str]) -> Result<i32, BodyError> {
        for file in words.iter().filter(|word| !word.starts_with('-')) {
            let path = self.path(file);
            let result = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = result
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(io_at(&path)(error));
            }
        }
        Ok(0)
    }

    fn test(&self, words: &[&str]) -> i32 {
        let path = |file: &str| self.path(file);
        let holds = match words {
            ["-e", file] | ["-e", file, "]"] => path(file).exists(),
            ["-f", file] | ["-f", file, "]"] => path(file).is_file(),
            ["-d", file] | ["-d", file, "]"] => path(file).is_dir(),
            _ => return 2,
        };
        i32::from(!holds)
    }
}

/// Simple commands with whether they hang on the one before (`&&`).
fn split(script: &str) -> Vec<(bool, &str)> {
    let mut parts = Vec::new();
    for line in script.split(['\n', ';']) {
        for (index, part) in line.split("&&").enumerate() {
            parts.push((index > 0, part.trim()));
        }
    }
    parts
}

//! The ustar format (POSIX.1-1988), as far as a hollow container needs it: files, folders, long names by GNU's `././@LongLink`.

const BLOCK: usize = 512;

/// What a tar holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Begins with `./`.
    pub(crate) path: String,
    pub(crate) mode: u32,
    /// `None`: a folder.
    pub(crate) content: Option<Vec<u8>>,
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
}

fn header(name: &[u8], mode: u32, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], mode.into());
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn put(out: &mut Vec<u8>, name: &[u8], mode: u32, kind: u8, content: &[u8]) {
    let (name, rest) = name.split_at(name.len().min(100));
    if !rest.is_empty() {
        let whole = [name, rest, b"\0"].concat();
        put(out, b"././@LongLink", 0, b'L', &whole);
    }
    out.extend_from_slice(&header(name, mode, content.len() as u64, kind));
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// All of it as one file, with two empty blocks at its end.
pub(crate) fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        match &entry.content {
            Some(content) => put(&mut out, entry.path.as_bytes(), entry.mode, b'0', content),
            None => put(&mut out, format!("{}/", entry.path).as_bytes(), entry.mode, b'5', b""),
        }
    }
    // tar fills its last record of 20 blocks.
    out.resize((out.len() + 2 * BLOCK).next_multiple_of(20 * BLOCK), 0);
    out
}

fn number(field: &[u8]) -> Option<u64> {
    let text: String = field
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| char::from(*byte))
        .collect();
    u64::from_str_radix(text.trim(), 8).ok()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Reads it to its end; the error is what tar would say.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut at = 0;
    let mut long_name = None;
    loop {
        let block = bytes
            .get(at..at + BLOCK)
            .ok_or("tar: Unexpected EOF in archive\ntar: Error is not recoverable: exiting now")?;
        at += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(place, byte)| {
                if (148..156).contains(&place) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        let size = number(&block[124..136]).and_then(|size| usize::try_from(size).ok());
        let (Some(claimed), Some(size)) = (number(&block[148..156]), size) else {
            return Err("tar: This does not look like a tar archive".to_owned());
        };
        if claimed != sum {
            return Err(
                "tar: Skipping to next header\ntar: Exiting with failure status due to previous errors".to_owned(),
            );
        }
        let content = bytes
            .get(at..at.saturating_add(size))
            .ok_or("tar: Unexpected EOF in archive\ntar: Error is not recoverable: exiting now")?;
        at += size.next_multiple_of(BLOCK);
        let path = long_name.take().unwrap_or_else(|| text(&block[..100]));
        let mode = u32::try_from(number(&block[100..108]).unwrap_or(0)).unwrap_or(0) & 0o7777;
        match block[156] {
            b'L' => long_name = Some(text(content)),
            b'5' => entries.push(Entry {
                path: path.trim_end_matches('/').to_owned(),
                mode,
                content: None,
            }),
            b'0' | 0 => entries.push(Entry {
                path,
                mode,
                content: Some(content.to_vec()),
            }),
            // Links and devices: a hollow container has none, and an archive of a real one is not for it.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn entries() -> Vec<Entry> {
        let file = |path: &str, content: &[u8]| Entry {
            path: path.to_owned(),
            mode: 0o640,
            content: Some(content.to_vec()),
        };
        vec![
            file("./etc/vzdump/pct.conf", b"hostname: web\n"),
            Entry {
                path: "./srv".to_owned(),
                mode: 0o755,
                content: None,
            },
            file("./srv/empty", b""),
            file(&format!("./srv/{}", "long/".repeat(40)), &[7; 1300]),
        ]
    }

    #[test]
    fn what_was_written_comes_back_and_damage_is_noticed() {
        let bytes = write(&entries());
        let mut wanted = entries();
        wanted[3].path = wanted[3].path.clone();
        assert_eq!(read(&bytes).unwrap(), wanted);
        assert!(read(&bytes[..1024]).unwrap_err().contains("Unexpected EOF"));
        let mut damaged = bytes;
        damaged[3] ^= 1;
        assert!(read(&damaged).is_err());
    }

    #[test]
    fn the_real_tar_reads_it() {
        let mut tar = Command::new("tar")
            .args(["-tf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&write(&entries())).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(
            listed.starts_with("./etc/vzdump/pct.conf\n./srv/\n./srv/empty\n./srv/long/"),
            "{listed}"
        );
    }
}

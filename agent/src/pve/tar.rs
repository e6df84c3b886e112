//! Walks through a tar as it streams by, without keeping it: counts what is in it, and notices where it is no tar or breaks off. Formats: ustar, GNU (long
//! names, old sparse files, sizes in base 256), pax (sizes beyond 8 GiB).

/// Size of a block.
const BLOCK: usize = 512;
/// No extended header of pax is longer.
const PAX_MAX: u64 = 1 << 20;

/// Why it is no whole tar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TarError {
    /// A header does not add up.
    #[error("the header of its entry {0} is damaged")]
    Header(u64),
    /// It ends before its end.
    #[error("it breaks off after {0} entries")]
    Cut(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next block is a header.
    Header,
    /// The next block continues the map of an old GNU sparse file; then so much content follows.
    SparseMap(u64),
    /// So many bytes of content, and of padding, follow. Whether they are an extended header.
    Content { left: u64, padding: u64, pax: bool },
    /// The end was there; what follows fills the last record.
    End,
}

/// The walk.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    state: State,
    block: Vec<u8>,
    pax: Vec<u8>,
    /// What the extended header says that the next entry's size is.
    size: Option<u64>,
    entries: u64,
}

impl Walk {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            pax: Vec::new(),
            size: None,
            entries: 0,
        }
    }

    /// More of it.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() {
            match self.state {
                State::End => return Ok(()),
                State::Content { left, padding, pax } => {
                    let take = usize::try_from((left + padding).min(bytes.len() as u64)).unwrap_or(bytes.len());
                    let content = usize::try_from(left.min(take as u64)).unwrap_or(take);
                    if pax {
                        self.pax.extend_from_slice(&bytes[..content]);
                    }
                    bytes = &bytes[take..];
                    let (left, padding) = (left - content as u64, padding - (take - content) as u64);
                    self.state = State::Content { left, padding, pax };
                    if left + padding == 0 {
                        self.content_ends(pax);
                    }
                }
                State::Header | State::SparseMap(_) => {
                    let take = (BLOCK - self.block.len()).min(bytes.len());
                    self.block.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if self.block.len() == BLOCK {
                        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
                        self.take_block(&block)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// It is over: how many files, folders and links there were.
    pub(crate) fn finish(self) -> Result<u64, TarError> {
        match self.state {
            State::End => Ok(self.entries),
            _ => Err(TarError::Cut(self.entries)),
        }
    }

    fn content_ends(&mut self, pax: bool) {
        self.state = State::Header;
        if pax {
            self.size = pax_size(&self.pax).or(self.size);
            self.pax.clear();
        }
    }

    fn content_of(&mut self, size: u64, pax: bool) {
        self.state = State::Content {
            left: size,
            padding: (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64,
            pax,
        };
        if size == 0 {
            self.content_ends(pax);
        }
    }

    fn take_block(&mut self, block: &[u8]) -> Result<(), TarError> {
        if let State::SparseMap(size) = self.state {
            if block[504] == 0 {
                self.content_of(size, false);
            }
            return Ok(());
        }
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let damaged = TarError::Header(self.entries + 1);
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
        if number(&block[148..156]) != Some(sum) {
            return Err(damaged);
        }
        let told = number(&block[124..136]).ok_or_else(|| damaged.clone())?;
        match block[156] {
            b'x' if told <= PAX_MAX => self.content_of(told, true),
            b'x' => return Err(damaged),
            b'g' | b'L' | b'K' => self.content_of(told, false),
            kind => {
                self.entries += 1;
                let size = match kind {
                    // Links, devices and folders have none, whatever stands there.
                    b'1'..=b'6' => 0,
                    _ => self.size.take().unwrap_or(told),
                };
                self.size = None;
                if kind == b'S' && block[482] != 0 {
                    self.state = State::SparseMap(size);
                } else {
                    self.content_of(size, false);
                }
            }
        }
        Ok(())
    }
}

/// Octal text, or base 256 if its first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7F);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add((*byte).into())?;
        }
        return Some(value);
    }
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .take_while(|byte| (b'0'..=b'7').contains(byte))
        .collect();
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

/// `22 size=9663676416\n` among other records.
fn pax_size(mut records: &[u8]) -> Option<u64> {
    let mut size = None;
    while let Some(space) = records.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        let record = records.get(space + 1..length.checked_sub(1)?)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value).ok()?.parse().ok();
        }
        records = records.get(length..)?;
    }
    size
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::{fs, os::unix::fs::FileExt, path::Path, process::Command};

    fn walk(bytes: &[u8], piece: usize) -> Result<u64, TarError> {
        let mut walk = Walk::new();
        for piece in bytes.chunks(piece) {
            walk.push(piece)?;
        }
        walk.finish()
    }

    /// Files, a folder, links, a name of 200 characters, a sparse file with many holes.
    fn tree(folder: &Path) -> u64 {
        fs::create_dir(folder.join("d")).unwrap();
        fs::write(folder.join("d/empty"), "").unwrap();
        fs::write(folder.join("d/odd"), [7; 1025]).unwrap();
        fs::write(folder.join(format!("d/{}", "n".repeat(200))), [8; 512]).unwrap();
        std::os::unix::fs::symlink("odd", folder.join("d/link")).unwrap();
        fs::hard_link(folder.join("d/odd"), folder.join("d/hard")).unwrap();
        let sparse = fs::File::create(folder.join("d/sparse")).unwrap();
        for hole in 0..40 {
            sparse.write_at(b"x", hole * 1_000_000).unwrap();
        }
        // The tree's own folder too.
        8
    }

    fn tar(folder: &Path, more: &[&str]) -> Vec<u8> {
        let mut command = Command::new("tar");
        command.args(["-cf", "-", "-C"]).arg(folder).args(more).arg(".");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn what_the_real_tar_writes_is_walked_through_in_any_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let entries = tree(dir.path());
        for more in [
            &["--sparse"][..],
            &["--sparse", "--format=posix"],
            &["--format=ustar", "--exclude=./d/nnn*"],
            &[],
        ] {
            let bytes = tar(dir.path(), more);
            let entries = if more.len() == 2 && more[0] == "--format=ustar" {
                entries - 1
            } else {
                entries
            };
            for piece in [1, 511, 512, 65_536, bytes.len()] {
                assert_eq!(walk(&bytes, piece), Ok(entries), "{more:?} in pieces of {piece}");
            }
            let half = &bytes[..bytes.len() / 2 / BLOCK * BLOCK];
            assert!(matches!(walk(half, 4096), Err(TarError::Cut(_))), "{more:?}");
            let mut damaged = bytes;
            damaged[5] ^= 1;
            assert_eq!(walk(&damaged, 4096), Err(TarError::Header(1)), "{more:?}");
        }
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_are_read() {
        let mut field = [0_u8; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        assert_eq!(number(&field), Some(9 << 30));
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(
            pax_size(b"30 mtime=1795381836.123456789\n19 size=9663676416\n"),
            Some(9 << 30)
        );
        assert_eq!(pax_size(b"19 path=aaaaaaaaaa\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_through_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), piece in 1_usize..1000) {
            let _ = walk(&bytes, piece);
        }
    }
}

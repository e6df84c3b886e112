//! Compressed files whose content is stored, in the formats of `zstd`, `gzip` and `lzop`, each with its checksums, so that damage is noticed as with the real
//! ones. Only what is written here is read here.

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squeezer {
    /// `.tar.zst`.
    Zstd,
    /// `.tar.gz`.
    Gzip,
    /// `.tar.lzo`.
    Lzo,
    /// `.tar`.
    None,
}

const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const GZIP: [u8; 2] = [0x1F, 0x8B];
const LZOP: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, 0x0D, 0x0A, 0x1A, 0x0A];
/// A raw block of zstd holds at most this.
const ZSTD_BLOCK: usize = 128 * 1024;
/// A stored block of deflate.
const DEFLATE_BLOCK: usize = 65_535;
/// A block of lzop.
const LZO_BLOCK: usize = 256 * 1024;

impl Squeezer {
    /// Of `vzdump --compress`.
    pub(crate) fn of_option(compress: &str) -> Self {
        match compress {
            "zstd" => Self::Zstd,
            "gzip" | "1" => Self::Gzip,
            "lzo" => Self::Lzo,
            _ => Self::None,
        }
    }

    /// What a file of it is called.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "tar.zst",
            Self::Gzip => "tar.gz",
            Self::Lzo => "tar.lzo",
            Self::None => "tar",
        }
    }

    /// The program that writes and reads it.
    pub(crate) fn program(self) -> Option<&'static str> {
        match self {
            Self::Zstd => Some("zstd"),
            Self::Gzip => Some("gzip"),
            Self::Lzo => Some("lzop"),
            Self::None => None,
        }
    }

    /// By the first bytes of a file.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        if bytes.starts_with(&ZSTD) {
            Self::Zstd
        } else if bytes.starts_with(&GZIP) {
            Self::Gzip
        } else if bytes.starts_with(&LZOP) {
            Self::Lzo
        } else {
            Self::None
        }
    }

    pub(crate) fn squeeze(self, content: &[u8]) -> Vec<u8> {
        match self {
            Self::Zstd => zstd(content),
            Self::Gzip => gzip(content),
            Self::Lzo => lzop(content),
            Self::None => content.to_vec(),
        }
    }

    /// The content again; the error is what the program would say.
    pub(crate) fn unsqueeze(self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Zstd => unzstd(bytes)
                .ok_or_else(|| "zstd: /*stdin*\\ : Decoding error (36) : Data corruption detected".to_owned()),
            Self::Gzip => ungzip(bytes).ok_or_else(|| "gzip: stdin: invalid compressed data--crc error".to_owned()),
            Self::Lzo => unlzop(bytes).ok_or_else(|| "lzop: <stdin>: Checksum error (lzo file corrupted)".to_owned()),
            Self::None => Ok(bytes.to_vec()),
        }
    }
}

/// Takes the front off.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, back) = rest.split_at_checked(length)?;
    *rest = back;
    Some(front)
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut out = ZSTD.to_vec();
    // A content checksum, no content size; a window of 2 MiB.
    out.extend([0b100, 11 << 3]);
    let mut chunks = content.chunks(ZSTD_BLOCK).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        let last = chunks.peek().is_none();
        let head = u32::from(last) | u32::try_from(chunk.len()).unwrap_or(0) << 3;
        out.extend(&head.to_le_bytes()[..3]);
        out.extend(chunk);
        if last {
            break;
        }
    }
    out.extend(&xxh64(content).to_le_bytes()[..4]);
    out
}

fn unzstd(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(&ZSTD)?.strip_prefix(&[0b100, 11 << 3])?;
    let mut content = Vec::new();
    loop {
        let head = take(&mut rest, 3)?;
        let head = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        if head >> 1 & 0b11 != 0 {
            return None;
        }
        content.extend(take(&mut rest, usize::try_from(head >> 3).ok()?)?);
        if head & 1 == 1 {
            break;
        }
    }
    (rest == &xxh64(&content).to_le_bytes()[..4]).then_some(content)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut chunks = content.chunks(DEFLATE_BLOCK).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        let last = chunks.peek().is_none();
        let length = u16::try_from(chunk.len()).unwrap_or(0);
        out.push(u8::from(last));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(chunk);
        if last {
            break;
        }
    }
    out.extend(crc32(content).to_le_bytes());
    out.extend((content.len() as u32).to_le_bytes());
    out
}

fn ungzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes;
    take(&mut rest, 10)?;
    let mut content = Vec::new();
    loop {
        let last = take(&mut rest, 1)?[0];
        let head = take(&mut rest, 4)?;
        let (length, complement) = (
            u16::from_le_bytes([head[0], head[1]]),
            u16::from_le_bytes([head[2], head[3]]),
        );
        if last > 1 || length != !complement {
            return None;
        }
        content.extend(take(&mut rest, length.into())?);
        if last == 1 {
            break;
        }
    }
    let ends = [crc32(&content).to_le_bytes(), (content.len() as u32).to_le_bytes()].concat();
    (rest == ends).then_some(content)
}

fn lzop(content: &[u8]) -> Vec<u8> {
    // Version, library, needed version; method LZO1X-1, level 5; flags: Adler-32 of the content, made on Unix; mode, two times, no name.
    let mut head = vec![0x10, 0x30, 0x20, 0xA0, 0x09, 0x40, 1, 5];
    head.extend(0x0300_0001_u32.to_be_bytes());
    head.extend(0o100_644_u32.to_be_bytes());
    head.extend([0; 8]);
    head.push(0);
    let mut out = LZOP.to_vec();
    out.extend(&head);
    out.extend(adler32(&head).to_be_bytes());
    for chunk in content.chunks(LZO_BLOCK) {
        let length = u32::try_from(chunk.len()).unwrap_or(0).to_be_bytes();
        // As long compressed as not: it is stored.
        out.extend(length);
        out.extend(length);
        out.extend(adler32(chunk).to_be_bytes());
        out.extend(chunk);
    }
    out.extend([0; 4]);
    out
}

fn unlzop(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(&LZOP)?;
    let head = take(&mut rest, 25)?;
    let word = |rest: &mut &[u8]| Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?));
    if word(&mut rest)? != adler32(head) {
        return None;
    }
    let mut content = Vec::new();
    loop {
        let length = word(&mut rest)?;
        if length == 0 {
            return rest.is_empty().then_some(content);
        }
        let (stored, sum) = (word(&mut rest)?, word(&mut rest)?);
        let chunk = take(&mut rest, usize::try_from(length).ok()?)?;
        if stored != length || sum != adler32(chunk) {
            return None;
        }
        content.extend(chunk);
    }
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 {
                (sum >> 1) ^ 0xEDB8_8320
            } else {
                sum >> 1
            }
        })
    })
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

/// XXH64 with seed 0, the checksum of a zstd frame.
fn xxh64(bytes: &[u8]) -> u64 {
    const P: [u64; 5] = [
        0x9E37_79B1_85EB_CA87,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0x85EB_CA77_C2B2_AE63,
        0x27D4_EB2F_1656_67C5,
    ];
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
    };
    let round = |acc: u64, input: u64| {
        acc.wrapping_add(input.wrapping_mul(P[1]))
            .rotate_left(31)
            .wrapping_mul(P[0])
    };
    let mut rest = bytes;
    let mut hash = if bytes.len() >= 32 {
        let mut lanes = [P[0].wrapping_add(P[1]), P[1], 0, 0_u64.wrapping_sub(P[0])];
        while let Some((stripe, back)) = rest.split_at_checked(32) {
            for (lane, input) in lanes.iter_mut().zip(stripe.chunks(8)) {
                *lane = round(*lane, word(input));
            }
            rest = back;
        }
        let turned = lanes
            .iter()
            .zip([1, 7, 12, 18])
            .fold(0_u64, |sum, (lane, by)| sum.wrapping_add(lane.rotate_left(by)));
        lanes.iter().fold(turned, |hash, lane| {
            (hash ^ round(0, *lane)).wrapping_mul(P[0]).wrapping_add(P[3])
        })
    } else {
        P[4]
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((eight, back)) = rest.split_at_checked(8) {
        hash = (hash ^ round(0, word(eight)))
            .rotate_left(27)
            .wrapping_mul(P[0])
            .wrapping_add(P[3]);
        rest = back;
    }
    if let Some((four, back)) = rest.split_at_checked(4) {
        hash = (hash ^ word(four).wrapping_mul(P[0]))
            .rotate_left(23)
            .wrapping_mul(P[1])
            .wrapping_add(P[2]);
        rest = back;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P[4]))
            .rotate_left(11)
            .wrapping_mul(P[0]);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(P[2]);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const ALL: [Squeezer; 4] = [Squeezer::Zstd, Squeezer::Gzip, Squeezer::Lzo, Squeezer::None];

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }

    #[test]
    fn what_was_squeezed_comes_back_and_damage_is_noticed() {
        for squeezer in ALL {
            for length in [0, 1, 5, 31, 32, 45, 70_000, 300_000] {
                let bytes = squeezer.squeeze(&content(length));
                assert_eq!(Squeezer::of_bytes(&bytes), squeezer, "{length}");
                assert_eq!(
                    squeezer.unsqueeze(&bytes).unwrap(),
                    content(length),
                    "{squeezer:?} {length}"
                );
            }
            if squeezer != Squeezer::None {
                let mut damaged = squeezer.squeeze(&content(1000));
                damaged[700] ^= 4;
                assert!(squeezer.unsqueeze(&damaged).is_err(), "{squeezer:?}");
                assert!(squeezer.unsqueeze(&squeezer.squeeze(&content(1000))[..600]).is_err());
            }
        }
    }

    /// gzip is on every Debian; the others where they are installed.
    #[test]
    fn the_real_programs_read_it() {
        for squeezer in ALL {
            let Some(program) = squeezer.program() else { continue };
            let child = Command::new(program)
                .arg("-dc")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                assert_ne!(squeezer, Squeezer::Gzip, "gzip is not installed");
                eprintln!("{program} is not installed: what is written for it is not tried");
                continue;
            };
            child
                .stdin
                .take()
                .unwrap()
                .write_all(&squeezer.squeeze(&content(40_000)))
                .unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{program}");
            assert!(output.stdout == content(40_000), "{program}");
        }
    }
}

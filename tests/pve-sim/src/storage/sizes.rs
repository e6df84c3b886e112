//! Sizes as Proxmox writes them.

use super::{GIB, KIB};

/// `1280M`, `1G`, `0T`: the largest unit without a remainder (PVE::JSONSchema::format_size).
pub(crate) fn format_size(bytes: u64) -> String {
    let mut number = bytes;
    for unit in ["", "K", "M", "G"] {
        if !number.is_multiple_of(KIB) {
            return format!("{number}{unit}");
        }
        number /= KIB;
    }
    format!("{number}T")
}

/// `256M` in bytes; a bare number counts in `unit`.
pub(crate) fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let (number, factor) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], KIB),
        b'M' => (&text[..text.len() - 1], KIB * KIB),
        b'G' => (&text[..text.len() - 1], GIB),
        b'T' => (&text[..text.len() - 1], GIB * KIB),
        _ => (text, unit),
    };
    let number: f64 = number
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    Some((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_real_tool_writes_them() {
        assert_eq!(format_size(0), "0T");
        assert_eq!(format_size(GIB), "1G");
        assert_eq!(format_size(1280 * KIB * KIB), "1280M");
        assert_eq!(parse_size("+256M".trim_start_matches('+'), 1), Some(256 * KIB * KIB));
    }
}

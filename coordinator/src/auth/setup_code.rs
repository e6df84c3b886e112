//! The code that proves that whoever registers first is whoever installed the coordinator: it stands in a 0600 file until it is used.

use super::{AuthError, key_file};
use std::path::{Path, PathBuf};

/// The file of the code.
#[derive(Debug, Clone)]
pub struct SetupCode {
    path: PathBuf,
}

fn normal(code: &str) -> String {
    code.chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .map(|c| c.to_ascii_uppercase())
        .collect()
}

impl SetupCode {
    /// `<state>/setup-code`.
    pub fn new(state: &Path) -> Self {
        Self {
            path: state.join("setup-code"),
        }
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The code, made if there is none: 100 random bits.
    pub fn ensure(&self) -> Result<String, AuthError> {
        if let Some(code) = key_file::read(&self.path)?
            && let Ok(text) = std::str::from_utf8(&code)
            && !text.trim().is_empty()
        {
            return Ok(text.trim().to_owned());
        }
        let mut bytes = [0_u8; 13];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthError::NoRandom)?;
        let letters = data_encoding::BASE32_NOPAD.encode(&bytes);
        let groups: Vec<&str> = (0..5).filter_map(|i| letters.get(i * 4..i * 4 + 4)).collect();
        let code = groups.join("-");
        key_file::write(&self.path, format!("{code}\n").as_bytes())?;
        Ok(code)
    }

    /// Whether this is the code. Case and dashes do not matter.
    pub fn is(&self, given: &str) -> Result<bool, AuthError> {
        let Some(code) = key_file::read(&self.path)? else {
            return Ok(false);
        };
        let (code, given) = (normal(&String::from_utf8_lossy(&code)), normal(given));
        Ok(!code.is_empty()
            && aws_lc_rs::constant_time::verify_slices_are_equal(code.as_bytes(), given.as_bytes()).is_ok())
    }

    /// There is a first user: the code is worth nothing any more.
    pub fn remove(&self) -> Result<(), AuthError> {
        key_file::remove(&self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_code_is_kept_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let setup = SetupCode::new(dir.path());
        assert!(!setup.is("").unwrap());
        let code = setup.ensure().unwrap();
        assert_eq!(code.len(), 24);
        assert_eq!(setup.ensure().unwrap(), code);
        assert_eq!(
            std::fs::metadata(setup.path()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(setup.is(&code.to_lowercase().replace('-', " ")).unwrap());
        assert!(!setup.is(&code[1..]).unwrap());
        assert!(!setup.is("").unwrap());
        setup.remove().unwrap();
        assert!(!setup.is(&code).unwrap());
        setup.remove().unwrap();
        assert_ne!(setup.ensure().unwrap(), code);
    }
}

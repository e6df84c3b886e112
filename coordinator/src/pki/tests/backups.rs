//! The authority in one file, and back.

use super::*;
use std::fs;

const WORDS: &str = "correct horse battery staple";

fn sealed() -> Lock {
    Lock::Passphrase(proximity_protocol::secret::SecretText::new(WORDS))
}

/// An authority in the middle of a rotation.
fn authority() -> (tempfile::TempDir, Pki) {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), NOW).unwrap();
    pki.announce(NOW, Terms::default()).unwrap();
    pki.switch(NOW).unwrap();
    (state, pki)
}

#[test]
fn what_is_saved_comes_back_whole() {
    for with in [sealed(), Lock::Open] {
        let (state, pki) = authority();
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("authority.backup");
        let saved = pki.back_up(&path, &with, NOW).unwrap();
        assert_eq!(saved.pins.len(), 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(pki.plan().backed_up_at, Some(NOW));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("PRIVATE KEY"));

        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(restore(elsewhere.path(), &path, &with, NOW).unwrap(), saved);
        let again = Pki::open(elsewhere.path(), NOW).unwrap();
        assert_eq!(again.roots(), pki.roots());
        assert_eq!(again.plan().backed_up_at, Some(NOW));
        assert_eq!(
            (again.reset_key(), again.retry_key()),
            (pki.reset_key(), pki.retry_key())
        );
        let secret = Secret256::new([7; 32]);
        assert!(again.join_secret_matches(&secret, &pki.hash_join_secret(&secret)));
        for entry in fs::read_dir(state.path().join("ca")).unwrap() {
            let name = entry.unwrap().file_name();
            let mode =
                |folder: &Path| fs::metadata(folder.join("ca").join(&name)).map(|meta| meta.permissions().mode());
            if name != "lock" && name != "roots.json" {
                assert_eq!(mode(elsewhere.path()).unwrap(), mode(state.path()).unwrap(), "{name:?}");
            }
        }
        // Nothing that is there is replaced.
        assert!(matches!(
            restore(elsewhere.path(), &path, &with, NOW),
            Err(BackupError::Occupied(_))
        ));
        assert!(matches!(pki.back_up(&path, &with, NOW), Err(BackupError::There(_))));
    }
}

#[test]
fn another_passphrase_or_an_altered_file_restores_nothing() {
    let (_state, pki) = authority();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("authority.backup");
    pki.back_up(&path, &sealed(), NOW).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let wrong = Lock::Passphrase(proximity_protocol::secret::SecretText::new("guess"));
    let refused = |with: &Lock| {
        let refused = restore(elsewhere.path(), &path, with, NOW).unwrap_err();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "something was left");
        refused
    };
    assert!(matches!(refused(&wrong), BackupError::NotOpened(_)));
    assert!(matches!(refused(&Lock::Open), BackupError::Sealed(_)));
    let whole = fs::read_to_string(&path).unwrap();
    // The head is bound to the rest.
    fs::write(
        &path,
        whole.replace(&data_encoding::HEXLOWER.encode(&pki.ca_pin()), &"0".repeat(64)),
    )
    .unwrap();
    assert!(matches!(refused(&sealed()), BackupError::NotOpened(_)));
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(refused(&sealed()), BackupError::NotABackup { .. }));

    let open = out.path().join("open.backup");
    pki.back_up(&open, &Lock::Open, NOW).unwrap();
    let text = fs::read_to_string(&open).unwrap();
    let middle = text.rfind("\"content\"").unwrap() + 200;
    let mut bytes = text.into_bytes();
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    fs::write(&open, bytes).unwrap();
    let damaged = restore(elsewhere.path(), &open, &Lock::Open, NOW).unwrap_err();
    assert!(damaged.to_string().contains("checksum"), "{damaged}");
}

#[test]
fn a_step_after_the_backup_asks_for_another() {
    let (state, pki) = authority();
    let out = tempfile::tempdir().unwrap();
    pki.back_up(&out.path().join("one"), &Lock::Open, NOW).unwrap();
    pki.retire().unwrap();
    assert_eq!(pki.plan().backed_up_at, None);
    assert_eq!(Pki::open(state.path(), NOW).unwrap().plan().backed_up_at, None);
}

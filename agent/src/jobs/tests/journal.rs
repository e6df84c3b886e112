use super::{
    super::{
        JobKey,
        journal::{Journal, JournalError},
        record::{Entry, Record},
    },
    install, rewrite, start,
};
use proximity_protocol::{
    command::{Command, Outcome},
    fault::{Fault, FaultKind},
    ids::Epoch,
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

fn intention(command: &Command) -> Record {
    Record::Intention {
        command: Box::new(command.clone()),
    }
}

fn result(command: &Command) -> Record {
    Record::Result {
        job: JobKey::of(command),
        result: Ok(Outcome::Done),
    }
}

fn forgotten(command: &Command) -> Record {
    Record::Forgotten {
        job: JobKey::of(command),
    }
}

fn entries(journal: &Journal) -> Vec<(JobKey, Entry)> {
    journal
        .state()
        .in_order()
        .into_iter()
        .map(|(key, entry)| (key.clone(), entry.clone()))
        .collect()
}

fn open(folder: &Path) -> Journal {
    Journal::open(folder).unwrap()
}

/// A life of records, each of which changes what is known.
fn life() -> Vec<Record> {
    let (a, b) = (start(1, 100), start(2, 101));
    vec![
        Record::Epoch {
            coordinator: "c".into(),
            epoch: Epoch(1),
        },
        intention(&a),
        intention(&b),
        result(&b),
        Record::Epoch {
            coordinator: "c".into(),
            epoch: Epoch(2),
        },
        result(&a),
        forgotten(&b),
    ]
}

#[test]
fn a_record_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(folder.path());
    let mut whole = vec![(
        fs::metadata(&path).unwrap().len(),
        journal.state().epoch,
        entries(&journal),
    )];
    for record in life() {
        journal.append(vec![record]).unwrap();
        whole.push((
            fs::metadata(&path).unwrap().len(),
            journal.state().epoch,
            entries(&journal),
        ));
    }
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    let first = usize::try_from(whole[0].0).unwrap();
    for cut in first..=bytes.len() {
        // What a crash can leave behind the cut: nothing, or blocks that never got their content.
        for zeros in [0, 700] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            fs::write(&path, &torn).unwrap();
            let (_, epoch, known) = whole.iter().rfind(|(length, ..)| *length <= cut as u64).unwrap();
            let mut journal = open(folder.path());
            assert_eq!(
                (&journal.state().epoch, &entries(&journal)),
                (epoch, known),
                "cut at {cut} with {zeros} zeros"
            );
            journal.append(vec![intention(&start(9, 109))]).unwrap();
            let expected = entries(&journal);
            assert_eq!(
                entries(&open(folder.path())),
                expected,
                "written after the cut at {cut}"
            );
        }
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(folder.path());
    journal.append(life()).unwrap();
    let last = {
        let before = fs::metadata(&path).unwrap().len();
        journal.append(vec![intention(&start(3, 103))]).unwrap();
        usize::try_from(before).unwrap()
    };
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    for at in (8..last).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        assert!(
            matches!(Journal::open(folder.path()), Err(JournalError::Damaged { .. })),
            "at {at}"
        );
        assert_eq!(fs::read(&path).unwrap(), damaged, "not touched");
    }
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut of_later_version = b"PXJOURN1".to_vec();
    let json = br#"{"Later":{"what":1}}"#;
    of_later_version.extend_from_slice(&u32::try_from(json.len()).unwrap().to_be_bytes());
    of_later_version.extend_from_slice(&super::super::record::crc32(json).to_be_bytes());
    of_later_version.extend_from_slice(json);
    for content in [
        b"PXJOURN0".to_vec(),
        b"PXJ".to_vec(),
        b"something else entirely".to_vec(),
        of_later_version,
    ] {
        fs::write(&path, &content).unwrap();
        let error = Journal::open(folder.path()).err().expect("refused");
        assert!(matches!(error, JournalError::Format(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn what_is_forgotten_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(folder.path());
    let kept = start(1, 100);
    journal.append(vec![intention(&kept)]).unwrap();
    let long = Fault::new(FaultKind::ToolFailed, "x".repeat(2_000));
    for number in 10..1_500 {
        let job = start(number, 200);
        let failed = Record::Result {
            job: JobKey::of(&job),
            result: Err(long.clone()),
        };
        journal.append(vec![intention(&job), failed, forgotten(&job)]).unwrap();
    }
    assert!(
        fs::metadata(&path).unwrap().len() < 2 * 1024 * 1024,
        "compacted while it grew"
    );
    drop(journal);
    let journal = open(folder.path());
    assert!(fs::metadata(&path).unwrap().len() < 2_000, "compacted at start");
    assert_eq!(entries(&journal), [(JobKey::of(&kept), Entry::Open(Box::new(kept)))]);
}

#[test]
fn secrets_leave_the_file_with_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let holds_secret = || String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("hunter2-hunter2");
    for of in [install, rewrite] {
        for end in [result(&of(1, "")), forgotten(&of(1, ""))] {
            let mut journal = open(folder.path());
            let job = of(1, "hunter2-hunter2");
            let verb = job.verb.name();
            journal.append(vec![intention(&job)]).unwrap();
            assert!(
                holds_secret(),
                "it must be possible to try again without a link: {verb}"
            );
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            journal.append(vec![end]).unwrap();
            assert!(!holds_secret(), "{verb}");
        }
    }
}

#[test]
fn a_crash_while_compacting_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    journal.append(life()).unwrap();
    let expected = entries(&journal);
    drop(journal);
    fs::write(folder.path().join("journal.new"), b"PXJOURN1 half of a ").unwrap();
    assert_eq!(entries(&open(folder.path())), expected);
}

#[test]
fn jobs_keep_their_order_through_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    let order = [7, 3, 9, 1].map(|number| start(number, 100));
    for job in &order {
        journal.append(vec![intention(job)]).unwrap();
    }
    drop(journal);
    for _ in 0..2 {
        let keys: Vec<JobKey> = entries(&open(folder.path())).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, order.each_ref().map(JobKey::of));
    }
}

/// A disk that loses power may keep the later blocks of one write and lose the earlier. Several requests share a write, so the loss must take all of them.
#[test]
fn records_of_one_write_fall_together_when_its_first_block_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(folder.path());
    journal.append(vec![intention(&start(1, 100))]).unwrap();
    let before = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let expected = entries(&journal);
    journal
        .append((2..40).map(|number| intention(&start(number, 100))).collect())
        .unwrap();
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > before + 2048);
    for lost in [before..before + 512, before + 512..before + 1024] {
        let mut torn = bytes.clone();
        torn[lost].fill(0);
        fs::write(&path, &torn).unwrap();
        assert_eq!(entries(&open(folder.path())), expected);
    }
}

#[test]
fn a_journal_of_single_records_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = zeroize::Zeroizing::new(b"PXJOURN1".to_vec());
    for record in life() {
        super::super::record::write(&[record], &mut bytes).unwrap();
    }
    assert!(!bytes.windows(2).any(|two| two == b"[{"));
    fs::write(folder.path().join("journal"), &*bytes).unwrap();
    assert_eq!(
        entries(&open(folder.path())),
        [(JobKey::of(&start(1, 100)), Entry::Finished(Ok(Outcome::Done)))]
    );
}

/// Where no file can be made beside it (a full disk), the journal is used as it is, and secrets are wiped as soon as there is room.
#[test]
fn without_room_to_compact_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let job = install(1, "hunter2-hunter2");
    let mut journal = open(folder.path());
    journal
        .append(vec![intention(&start(7, 100)), intention(&job)])
        .unwrap();
    drop(journal);
    let intact = fs::metadata(&path).unwrap().len();
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"torn");
    fs::write(&path, torn).unwrap();
    let in_the_way = folder.path().join("journal.new");
    fs::create_dir(&in_the_way).unwrap();

    let mut journal = open(folder.path());
    assert_eq!(fs::metadata(&path).unwrap().len(), intact, "the torn end is cut");
    journal.append(vec![result(&job)]).unwrap();
    let known = entries(&journal);
    assert_eq!(entries(&open(folder.path())), known, "nothing written is lost");
    let holds_secret = || String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("hunter2-hunter2");
    assert!(holds_secret());
    fs::remove_dir(&in_the_way).unwrap();
    journal.append(vec![forgotten(&job)]).unwrap();
    assert!(!holds_secret());
    assert_eq!(
        entries(&open(folder.path())),
        [(JobKey::of(&start(7, 100)), Entry::Open(Box::new(start(7, 100))))]
    );
}

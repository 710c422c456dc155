use super::commit::Trailer;
use super::header::FileStart;
use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

const BLOCK_BYTES: usize = 40;

/// The content of a session.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    blocks: Vec<Vec<u8>>,
    tokens: Vec<u32>,
    state: Vec<u8>,
}

impl Content {
    fn of(session: &SessionFile) -> Result<Self> {
        let blocks = (0..session.blocks()).map(|index| session.block(index).map(<[u8]>::to_vec));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            tokens: session.tokens().to_vec(),
            state: session.state().to_vec(),
        })
    }

    /// Appends what differs from what is there.
    fn write(&self, session: &mut SessionFile) -> Result<()> {
        let before = Self::of(session)?;
        let mut append = session.append()?;
        for (index, block) in self.blocks.iter().enumerate() {
            if before.blocks.get(index) != Some(block) {
                append.block(index as u32, block)?;
            }
        }
        append.commit(self.blocks.len() as u32, &self.tokens, &self.state)
    }
}

/// A conversation: it grows into the last block and beyond, says nothing, and is rewound.
fn turns() -> Vec<Content> {
    let block = |seed: u8| (0..BLOCK_BYTES as u8).map(|i| seed ^ i.wrapping_mul(37)).collect();
    let turn = |seeds: &[u8], tokens: u32, state: &[u8]| Content {
        blocks: seeds.iter().map(|&seed| block(seed)).collect(),
        tokens: (0..tokens).map(|token| token * 1000).collect(),
        state: state.to_vec(),
    };
    vec![
        Content::default(),
        turn(&[1, 2], 5, b"sampler"),
        turn(&[1, 3, 4], 7, b""),
        turn(&[1, 3, 4], 8, b"sixteen bytes..."),
        turn(&[1, 5], 4, b"rewound"),
        turn(&[1, 5, 6, 7], 12, b"sampler"),
    ]
}

fn identity() -> Vec<(String, String)> {
    let fields = [("model", "tiny \"1\""), ("block tokens", "64"), ("index", "q8")];
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn create(path: &Path) -> Result<SessionFile> {
    SessionFile::create(path, &identity(), BLOCK_BYTES as u64)
}

fn open(path: &Path) -> Result<SessionFile> {
    SessionFile::open(path, &identity(), BLOCK_BYTES as u64)
}

/// A path in a folder that lasts as long as the guard.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.kv");
    (folder, path)
}

/// The file after the turns, and where each turn's commit ends.
fn recorded() -> (Vec<u8>, Vec<usize>) {
    let (_folder, path) = place();
    let mut session = create(&path).unwrap();
    let mut ends = vec![session.commit.end];
    for turn in &turns()[1..] {
        turn.write(&mut session).unwrap();
        ends.push(session.commit.end);
    }
    drop(session);
    (fs::read(&path).unwrap(), ends)
}

/// Opening a file of these bytes.
fn opened(path: &Path, bytes: &[u8]) -> Result<SessionFile> {
    // Without emptying the file first, which has some file systems wait for the disk.
    let options = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let mut file = options.unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    open(path)
}

#[track_caller]
fn refused(result: Result<impl std::fmt::Debug>, path: &Path, message: &str) {
    let error = result.unwrap_err().to_string();
    assert_eq!(error.replace(&path.display().to_string(), "FILE"), message);
}

#[test]
fn each_turn_is_there_at_once_and_after_opening_again() {
    let (_folder, path) = place();
    drop(create(&path).unwrap());
    for turn in turns() {
        let mut session = open(&path).unwrap();
        turn.write(&mut session).unwrap();
        assert_eq!(Content::of(&session).unwrap(), turn);
        drop(session);
        let session = open(&path).unwrap();
        assert_eq!((Content::of(&session).unwrap(), session.torn_tail()), (turn, 0));
    }
}

#[test]
fn a_session_begins_in_a_new_or_empty_file_only() {
    let (folder, path) = place();
    fs::write(&path, "").unwrap();
    let session = create(&path).unwrap();
    assert_eq!(Content::of(&session).unwrap(), Content::default());
    drop(session);
    let before = fs::read(&path).unwrap();
    let message = format!(
        "the size of FILE is {} bytes, but a session can begin only in a new or empty file",
        before.len()
    );
    refused(create(&path), &path, &message);
    assert_eq!(fs::read(&path).unwrap(), before);

    let missing = folder.path().join("none").join("chat.kv");
    assert!(create(&missing).unwrap_err().to_string().starts_with("cannot write "));
    assert!(open(&missing).unwrap_err().to_string().starts_with("cannot read "));
    refused(
        open(folder.path()),
        folder.path(),
        "the session FILE is a directory, device, pipe or socket, but a regular file is needed",
    );

    let other = folder.path().join("other.kv");
    for bytes in [0, u64::MAX] {
        let error = SessionFile::create(&other, &identity(), bytes).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the size of a session's block is {bytes} bytes, but")));
    }
    let long = [("model".to_owned(), "m".repeat(1 << 16))];
    let error = SessionFile::create(&other, &long, 1).unwrap_err().to_string();
    assert!(error.ends_with("is 65550 bytes, but at most 65536 are allowed"), "{error}");
    assert!(!other.exists());
}

#[test]
fn a_session_of_something_else_names_the_field_and_both_values() {
    let (_folder, path) = place();
    drop(create(&path).unwrap());
    let mut other = identity();
    other[1].1 = "32".into();
    let bytes = BLOCK_BYTES as u64;
    let check = |identity: &[(String, String)], bytes, message| {
        refused(SessionFile::open(&path, identity, bytes), &path, message);
    };
    check(&other, bytes + 1, "block tokens of the session FILE is 64, but it would have to be 32");
    check(
        &identity()[..2],
        bytes,
        "index of the session FILE is q8, but it would have to be absent",
    );
    other[1] = ("layers".into(), "2".into());
    check(&other, bytes, "layers of the session FILE is not given, but it would have to be 2");
    check(
        &identity(),
        41,
        "bytes of a block of the session FILE is 40, but it would have to be 41",
    );
    let mut turned = identity();
    turned.reverse();
    SessionFile::open(&path, &turned, bytes).unwrap();
}

#[test]
fn one_process_at_a_time_has_a_session() {
    let (_folder, path) = place();
    let message = "the session FILE is in use, but only one process at a time can go on with it";
    let session = create(&path).unwrap();
    refused(open(&path), &path, message);
    refused(create(&path), &path, message);
    drop(session);
    let session = open(&path).unwrap();
    refused(open(&path), &path, message);
    drop(session);
    open(&path).unwrap();
}

#[test]
fn an_append_without_a_commit_leaves_nothing() {
    let (_folder, path) = place();
    let (bytes, _) = recorded();
    let mut session = opened(&path, &bytes).unwrap();
    let turn = turns().pop().unwrap();
    let block = [9; BLOCK_BYTES];

    let mut append = session.append().unwrap();
    append.block(1, &block).unwrap();
    drop(append);
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);

    // One whose end nobody saw leaves what does not count, and stays there.
    let mut append = session.append().unwrap();
    append.block(1, &block).unwrap();
    std::mem::forget(append);
    assert_eq!(Content::of(&session).unwrap(), turn);
    drop(session);
    let mut session = open(&path).unwrap();
    assert_eq!((Content::of(&session).unwrap(), session.torn_tail()), (turn.clone(), 48));
    drop(session.append().unwrap());
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), recorded().0.len() + 48);

    let mut append = session.append().unwrap();
    refused(
        append.block(3, &block[1..]),
        &path,
        "the size of block 3 is 39 bytes, but FILE has blocks of 40",
    );
    append.block(5, &block).unwrap();
    refused(
        append.commit(6, &[], &[]),
        &path,
        "the number of blocks of FILE is 6, but block 4 was not written",
    );
    refused(session.block(4), &path, "the index of a block is 4, but FILE has 4 blocks");
    assert_eq!(Content::of(&session).unwrap(), turn);
    drop(session);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn the_last_of_several_writes_of_a_block_counts() {
    let (_folder, path) = place();
    let mut session = create(&path).unwrap();
    let mut append = session.append().unwrap();
    for byte in [1, 2] {
        append.block(0, &[byte; BLOCK_BYTES]).unwrap();
    }
    append.commit(1, &[7], &[]).unwrap();
    assert_eq!(session.block(0).unwrap(), [2; BLOCK_BYTES]);
}

#[test]
fn a_rewind_forgets_the_blocks_behind_it() {
    let (_folder, path) = place();
    let mut session = create(&path).unwrap();
    turns()[2].write(&mut session).unwrap();
    session.append().unwrap().commit(1, &[1], &[]).unwrap();
    assert_eq!((session.blocks(), session.tokens()), (1, &[1][..]));
    assert!(session.append().unwrap().commit(2, &[1], &[]).is_err());
}

#[test]
fn cut_anywhere_a_file_holds_the_last_turn_before_the_cut_and_is_cut_no_further() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    for cut in 0..=bytes.len() {
        let session = opened(&path, &bytes[..cut]);
        let turn = ends.iter().rposition(|&end| end <= cut);
        let Some(turn) = turn.filter(|&turn| turn > 0 || cut == ends[0]) else {
            let error = session.unwrap_err();
            let Error::File { offset, problem, .. } = error else { panic!("{error}") };
            match cut {
                0 => assert_eq!(problem, "the file is empty, but a session is needed"),
                1..8 => assert!(problem.starts_with("this begins with \"a"), "{problem}"),
                _ if cut < ends[0] => assert_eq!(
                    (offset, &*problem),
                    (cut as u64, "the file ends within the header of a session")
                ),
                // A first write that was cut off looks the same.
                _ => {
                    let begin =
                        format!("{} bytes follow the header, but no commit: ", cut - ends[0]);
                    assert_eq!(offset, ends[0] as u64);
                    assert!(problem.starts_with(&begin), "{problem}");
                }
            }
            assert_eq!(fs::read(&path).unwrap(), bytes[..cut]);
            continue;
        };
        let mut session = session.unwrap();
        assert_eq!(session.torn_tail(), (cut - ends[turn]) as u64);
        assert_eq!(Content::of(&session).unwrap(), turns()[turn]);
        // And the conversation goes on from there.
        if cut % 7 == 0 || ends.iter().any(|end| end.abs_diff(cut) < 2) {
            let next = turns().pop().unwrap();
            next.write(&mut session).unwrap();
            drop(session);
            let session = open(&path).unwrap();
            assert_eq!((Content::of(&session).unwrap(), session.torn_tail()), (next, 0));
            assert_eq!(fs::read(&path).unwrap()[..cut], bytes[..cut]);
        }
    }
}

#[test]
fn what_a_crash_left_out_of_the_last_turn_leaves_the_one_before() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    let &[.., before, end] = &ends[..] else { unreachable!() };
    let trailer = end - size_of::<Trailer>();
    let commit = trailer - 4 * 16 - 12 * 4 - 16;
    let turns = turns();
    let check = |from: usize, to: usize| {
        let mut bytes = bytes.clone();
        bytes[from..to].fill(0);
        let session = opened(&path, &bytes);
        if to > trailer && from <= trailer {
            let session = session.unwrap();
            let expected = &turns[turns.len() - 2];
            assert_eq!(Content::of(&session).unwrap(), *expected, "{from} to {to}");
            assert_eq!(session.torn_tail(), (end - before) as u64);
        } else {
            // The end of the write is there: it may have been whole.
            let error = session.unwrap_err().to_string();
            assert!(
                error.contains("the commit that ends here is damaged"),
                "{from} to {to}: {error}"
            );
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    };
    // The commit is written once the blocks are on the disk; of it, any part may be missing.
    for from in (commit..end).step_by(16) {
        for to in (from + 16..=end).step_by(16) {
            check(from, to);
        }
    }
    for from in (before..commit).step_by(16) {
        check(from, end);
    }
}

#[test]
fn a_flipped_bit_is_an_error_and_the_file_stays() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    let turns = turns();
    let before = ends[ends.len() - 2];
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            match opened(&path, &bytes).map(|session| (Content::of(&session), session.torn_tail()))
            {
                // Bytes that the last turn does not use may be anything.
                Ok((Ok(content), torn)) => {
                    assert_eq!((content, torn), (turns[turns.len() - 1].clone(), 0), "{at}:{bit}");
                }
                Ok((Err(error), _)) => {
                    let Error::File { offset, problem, .. } = error else { panic!("{error}") };
                    assert!(problem.starts_with("block ") && problem.contains(" is damaged: "));
                    assert!((offset as usize..offset as usize + BLOCK_BYTES).contains(&at));
                }
                Err(error) if at >= ends[0] => {
                    let error = error.to_string();
                    assert!(at >= before, "{at}:{bit}: {error}");
                    assert!(error.contains(": the commit that ends here is damaged: "), "{error}");
                    let way_out = format!("cut a copy of the file to {before} bytes");
                    assert!(error.contains(&way_out), "{error}");
                }
                // From there on, a change that is no accident would be a session of something else.
                Err(error) if at >= size_of::<FileStart>() - 16 => {
                    assert!(error.to_string().contains("header is damaged"));
                }
                Err(error) => assert!(matches!(error, Error::File { .. }), "{error}"),
            }
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
    // The way out.
    let mut session = opened(&path, &bytes[..before]).unwrap();
    assert_eq!(Content::of(&session).unwrap(), turns[turns.len() - 2]);
    turns[turns.len() - 1].write(&mut session).unwrap();
}

#[test]
fn the_only_commit_cannot_be_done_without() {
    let (_folder, path) = place();
    let mut session = create(&path).unwrap();
    let mut turn = turns()[1].clone();
    for byte in 0..20 {
        turn.blocks[1] = vec![byte; BLOCK_BYTES];
        turn.write(&mut session).unwrap();
    }
    // After which it is the only one.
    let session = session.compact().unwrap();
    let (start, end) = (session.commit.start, session.commit.end);
    drop(session);
    let bytes = fs::read(&path).unwrap();
    for at in start..end {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let error = opened(&path, &bytes).unwrap_err().to_string();
        assert!(error.contains("is damaged: ") && error.ends_with("to begin anew"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_torn_tail_stays_however_little_of_the_file_counts() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    let cut = bytes.len() - 9;
    let mut session = opened(&path, &bytes[..cut]).unwrap();
    let tail = cut - ends[4];
    assert_eq!((session.torn_tail(), session.bytes()), (tail as u64, cut as u64));
    let mut turn = turns()[1].clone();
    for byte in 0..20 {
        turn.blocks[1] = vec![byte; BLOCK_BYTES];
        turn.write(&mut session).unwrap();
    }
    assert!(session.garbage() > session.commit.end / 2);
    let session = session.compact().unwrap();
    assert_eq!(Content::of(&session).unwrap(), turn);
    drop(session);
    assert_eq!(fs::read(&path).unwrap()[..cut], bytes[..cut]);
}

#[test]
fn a_damaged_block_is_named_and_the_others_are_there() {
    let (_folder, path) = place();
    let (mut bytes, ends) = recorded();
    bytes[ends[4] + 50] ^= 1;
    let session = opened(&path, &bytes).unwrap();
    let error = session.block(3).unwrap_err().to_string();
    let expected = format!(
        "{}: at byte {}: block 3 is damaged: its checksum is ",
        path.display(),
        ends[4] + 48
    );
    assert!(error.starts_with(&expected), "{error}");
    for index in 0..3 {
        assert_eq!(session.block(index).unwrap(), turns()[5].blocks[index as usize]);
    }
}

#[test]
fn foreign_files_and_versions_are_named() {
    let (_folder, path) = place();
    let begins = |found| {
        format!(
            "FILE: at byte 0: this begins with \"{found}\", but a session begins with \"asyncTLS\""
        )
    };
    let check = |bytes: &[u8], message: &str| {
        refused(opened(&path, bytes), &path, message);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    };
    check(b"", "FILE: at byte 0: the file is empty, but a session is needed");
    check(
        b"GGUF\x03\0\0\0 and more than a header's bytes of model",
        &begins("GGUF\\x03\\x00\\x00\\x00"),
    );
    check(b"Dear diary, today I have talked to a machine.", &begins("Dear dia"));
    check(b"x", &begins("x"));

    let (bytes, _) = recorded();
    for (version, wrote) in [
        (0, "an older version of this program"),
        (2, "a newer version of this program"),
        (99, "a newer version of this program"),
        (1_u32.swap_bytes(), "a machine of the other byte order"),
    ] {
        let mut other = bytes.clone();
        other[8..12].copy_from_slice(&version.to_ne_bytes());
        check(
            &other,
            &format!(
                "FILE: at byte 8: the format of the file is {version}, as {wrote} writes it, and this one reads 1; the file \
                 is left as it is: go on with it there, or begin another session"
            ),
        );
    }
}

#[test]
fn sessions_of_other_programs_blocks_are_left_as_they_are() {
    let (_folder, path) = place();
    let identity = |format: &str| -> Vec<(String, String)> {
        // What else has changed since is not what is wrong.
        let rest = [("model".into(), format!("as format {format} describes it"))];
        [(SessionFile::FORMAT.into(), format.into())].into_iter().chain(rest).collect()
    };
    for (theirs, wrote) in [("2", "an older"), ("99", "a newer")] {
        let _ = fs::remove_file(&path);
        let mut session = SessionFile::create(&path, &identity(theirs), 40).unwrap();
        turns()[1].write(&mut session).unwrap();
        drop(session);
        let bytes = fs::read(&path).unwrap();
        for opened in [
            SessionFile::open(&path, &identity("3"), 48),
            SessionFile::open_read_only(&path, &identity("3"), 48),
        ] {
            refused(
                opened,
                &path,
                &format!(
                    "FILE: at byte 32: the format is {theirs}, as {wrote} version of this program writes it, and this one \
                     reads 3; the file is left as it is: go on with it there, or begin another session"
                ),
            );
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn hostile_headers_end_in_an_error() {
    let (_folder, path) = place();
    let (bytes, _) = recorded();
    let size = size_of::<FileStart>();
    let start: FileStart = bytemuck::pod_read_unaligned(&bytes[..size]);
    // With a right checksum.
    let check = |change: fn(&mut FileStart), identity: &[u8], message: &str| {
        let mut start = FileStart { identity_bytes: identity.len() as u32, ..start };
        change(&mut start);
        let mut bytes = bytes.clone();
        bytes[..size].copy_from_slice(bytemuck::bytes_of(&start.sealed(identity)));
        bytes[size..size + identity.len()].copy_from_slice(identity);
        refused(opened(&path, &bytes), &path, message);
    };
    let json = serde_json::to_vec(&identity()).unwrap();
    check(
        |start| start.identity_bytes = u32::MAX,
        &json,
        "FILE: at byte 12: the session's description has 4294967295 bytes, but at most 65536 are allowed",
    );
    check(
        |start| start.identity_bytes = 1 << 16,
        &json,
        &format!("FILE: at byte {}: the file ends within the header of a session", bytes.len()),
    );
    check(
        |start| start.block_bytes = u64::MAX,
        &json,
        "FILE: at byte 16: a block has 18446744073709551615 bytes, which no file can hold",
    );
    check(
        |start| start.block_bytes = isize::MAX as u64 - 16,
        &json,
        &format!(
            "bytes of a block of the session FILE is {}, but it would have to be 40",
            isize::MAX - 16
        ),
    );
    check(
        |_| (),
        &b"[".repeat(80),
        "FILE: at byte 32: the session's description is no list: invalid type: sequence, expected a string at line 1 column 2",
    );
}

#[test]
fn hostile_commits_end_in_an_error() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    let at = bytes.len() - size_of::<Trailer>();
    let trailer: Trailer = bytemuck::pod_read_unaligned(&bytes[at..]);
    let start = trailer.start as usize;
    // With right checksums; `None` for what is no commit, but the end of a write that was cut off.
    let check = |change: fn(&mut Trailer), entry: Option<u64>, message: Option<String>| {
        let mut bytes = bytes.clone();
        if let Some(offset) = entry {
            bytes[start + 16..start + 24].copy_from_slice(&offset.to_ne_bytes());
        }
        let mut trailer = trailer;
        trailer.content_checksum = crc32fast::hash(&bytes[start..at]);
        change(&mut trailer);
        bytes[at..].copy_from_slice(bytemuck::bytes_of(&trailer.sealed()));
        match message {
            Some(message) => refused(opened(&path, &bytes), &path, &message),
            None => assert_eq!(Content::of(&opened(&path, &bytes).unwrap()).unwrap(), turns()[4]),
        }
    };
    let size = |blocks: u64, tokens: u64, state: u64| {
        Some(format!(
            "FILE: at byte {at}: a commit of {blocks} blocks, {tokens} tokens and {state} bytes of state has 128 bytes"
        ))
    };
    let (max, most) = (u64::MAX, u32::MAX.into());
    check(|trailer| trailer.tokens = u64::MAX, None, size(4, max, 7));
    check(|trailer| trailer.tokens = u64::MAX / 4 + 1, None, size(4, max / 4 + 1, 7));
    check(|trailer| trailer.state_bytes = u64::MAX, None, size(4, 12, max));
    check(|trailer| trailer.state_bytes = 17, None, size(4, 12, 17));
    check(|trailer| trailer.blocks = u32::MAX, None, size(most, 12, 7));
    check(|trailer| trailer.blocks = 3, None, size(3, 12, 7));
    let begins = |found: u64| {
        Some(format!(
            "FILE: at byte {at}: the commit that ends here is damaged: it would begin at {found}, but commits begin \
             between {} and {at}; what was saved before it, 4 tokens, is whole: cut a copy of the file to {} bytes to go \
             on from there",
            ends[0], ends[4]
        ))
    };
    check(|trailer| trailer.start = u64::MAX, None, begins(max));
    check(|trailer| trailer.start += 8, None, begins(start as u64 + 8));
    check(|trailer| trailer.start = 0, None, begins(0));
    check(|trailer| trailer.magic = *b"asyncTLS", None, None);
    for offset in [0, u64::MAX, u64::MAX - 15, ends[0] as u64 + 8, start as u64 - 32, at as u64] {
        let message = format!(
            "FILE: at byte {}: block 1 would be at {offset}, but blocks are between {} and {start}",
            start + 16,
            ends[0]
        );
        check(|_| (), Some(offset), Some(message));
    }
}

// Elsewhere a file that is mapped cannot be cut.
#[cfg(unix)]
#[test]
fn a_file_that_another_program_cut_is_not_written_to() {
    let (_folder, path) = place();
    let (bytes, ends) = recorded();
    let mut session = opened(&path, &bytes).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(ends[2] as u64).unwrap();
    let message = format!(
        "FILE: at byte {}: the file had {} bytes, but another program has made it {}",
        ends[2],
        bytes.len(),
        ends[2]
    );
    refused(session.append(), &path, &message);
    drop(session);
    assert_eq!(fs::read(&path).unwrap(), bytes[..ends[2]]);
}

#[test]
fn what_another_program_added_stays() {
    let (_folder, path) = place();
    let (bytes, _) = recorded();
    let mut session = opened(&path, &bytes).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"and more").unwrap();
    let end = bytes.len();
    let message = format!(
        "FILE: at byte {end}: the file had {end} bytes, but another program has made it {}",
        end + 8
    );
    refused(session.append(), &path, &message);
    drop(session);
    assert_eq!(fs::read(&path).unwrap(), [&bytes[..], b"and more"].concat());
}

// Elsewhere an open file's name cannot be taken from it.
#[cfg(unix)]
#[test]
fn a_file_that_was_deleted_or_replaced_is_not_written_to() {
    let (folder, path) = place();
    let (bytes, _) = recorded();
    let turn = turns()[1].clone();
    let elsewhere = folder.path().join("elsewhere.kv");
    let message = |is: &str| {
        format!("the session FILE is {is}, but it can be saved only to the file that was opened")
    };
    let replace = |with: Option<&[u8]>| {
        fs::rename(&path, &elsewhere).unwrap();
        if let Some(with) = with {
            fs::write(&path, with).unwrap();
        }
    };
    for (with, is) in [(None, "gone"), (Some(&bytes[..]), "another file now")] {
        let mut session = opened(&path, &bytes).unwrap();
        replace(with);
        refused(session.append(), &path, &message(is));
        // It is tried again where it was put back.
        fs::rename(&elsewhere, &path).unwrap();
        let mut append = session.append().unwrap();
        append.block(0, &turn.blocks[0]).unwrap();
        replace(with);
        refused(append.commit(1, &[1], &[]), &path, &message(is));
        assert_eq!(Content::of(&session).unwrap(), turns()[5]);
        assert_eq!(fs::read(&elsewhere).unwrap(), bytes);
        fs::rename(&elsewhere, &path).unwrap();
        turn.write(&mut session).unwrap();
        for byte in 0..20 {
            let turn = Content { blocks: vec![vec![byte; BLOCK_BYTES]], ..turn.clone() };
            turn.write(&mut session).unwrap();
        }
        replace(with);
        refused(session.compact(), &path, &message(is));
        assert_eq!(fs::read(&path).ok().as_deref(), with);
    }
}

#[test]
fn a_session_is_read_without_being_written() {
    let (_folder, path) = place();
    let (bytes, _) = recorded();
    let torn = &bytes[..bytes.len() - 5];
    fs::write(&path, torn).unwrap();
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions.clone()).unwrap();
    let read = || SessionFile::open_read_only(&path, &identity(), BLOCK_BYTES as u64);
    let mut session = read().unwrap();
    assert_eq!(Content::of(&session).unwrap(), turns()[4]);
    assert_eq!(Content::of(&read().unwrap()).unwrap(), turns()[4], "another reader");
    refused(
        session.append(),
        &path,
        "the session FILE is open to be read, but it would have to be written",
    );
    drop(session.compact().unwrap());
    assert_eq!(fs::read(&path).unwrap(), torn);
    #[expect(clippy::permissions_set_readonly_false, reason = "so that the folder can go")]
    permissions.set_readonly(false);
    fs::set_permissions(&path, permissions).unwrap();
    // Who writes is alone.
    let session = read().unwrap();
    let message = "the session FILE is in use, but only one process at a time can go on with it";
    refused(open(&path), &path, message);
    drop(session);
    let session = open(&path).unwrap();
    refused(read(), &path, message);
    drop(session);
    let absent = path.with_extension("none");
    let error = SessionFile::open_read_only(&absent, &identity(), 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && !absent.exists(), "{error}");
}

#[test]
fn a_session_that_cannot_be_written_is_what_it_was() {
    let (_folder, path) = place();
    let (bytes, _) = recorded();
    let mut session = opened(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    session.file = Locked { file, path: path.clone(), is_shared: false };
    let turn = turns().pop().unwrap();
    let mut append = session.append().unwrap();
    for _ in 0..2 {
        let error = append.block(0, &[0; BLOCK_BYTES]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    }
    assert!(append.commit(4, &[], &[]).is_err());
    assert_eq!(Content::of(&session).unwrap(), turn);
    drop(session);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_in_one_error_and_the_session_goes_on() {
    // A limit on the size of files stands for the disk's end. It is set for a process of its own, which is this test.
    const FOLDER: &str = "ASYNCTLS_TEST_FULL_DISK";
    // So that the end comes within blocks, the zeros after them, and commits.
    let sizes = (1..1500).step_by(29);
    let filled = |blocks: usize, block_bytes: usize| Content {
        blocks: (0..blocks).map(|block| vec![block as u8; block_bytes]).collect(),
        tokens: (0..3 * blocks as u32).collect(),
        state: Vec::new(),
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        for bytes in sizes {
            let path = Path::new(&folder).join(bytes.to_string());
            let mut session = SessionFile::create(&path, &identity(), bytes as u64).unwrap();
            let mut blocks = 0;
            let error = loop {
                match filled(blocks + 1, bytes).write(&mut session) {
                    Ok(()) => blocks += 1,
                    Err(error) => break error.to_string(),
                }
            };
            let expected = format!("cannot write {}: File too large", path.display());
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(Content::of(&session).unwrap(), filled(blocks, bytes));
            assert_eq!(fs::metadata(&path).unwrap().len(), session.commit.end as u64);
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 8 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .arg("a_full_disk_ends_in_one_error_and_the_session_goes_on")
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for bytes in sizes {
        let path = folder.path().join(bytes.to_string());
        let mut session = SessionFile::open(&path, &identity(), bytes as u64).unwrap();
        let blocks = session.blocks() as usize;
        assert!(blocks > 0 && session.torn_tail() == 0);
        assert_eq!(Content::of(&session).unwrap(), filled(blocks, bytes));
        let next = filled(blocks + 1, bytes);
        next.write(&mut session).unwrap();
        assert_eq!(Content::of(&session).unwrap(), next);
    }
}

#[test]
fn a_file_of_garbage_is_written_anew() {
    let (folder, path) = place();
    let mut session = create(&path).unwrap();
    let mut turn = turns()[1].clone();
    // The rest of a compaction that crashed.
    fs::write(folder.path().join(".chat.kv.compact"), "old").unwrap();
    for byte in 0..20 {
        turn.blocks[1] = vec![byte; BLOCK_BYTES];
        turn.write(&mut session).unwrap();
    }
    let before = session.commit.end;
    let mut session = session.compact().unwrap();
    let end = session.commit.end;
    assert!(end < before / 4, "{before} to {end}");
    assert_eq!(session.garbage(), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), end as u64);
    assert_eq!(Content::of(&session).unwrap(), turn);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // The lock and the name are those of the new file.
    assert!(open(&path).unwrap_err().to_string().contains(" is in use"));
    turns()[2].write(&mut session).unwrap();
    drop(session);
    let session = open(&path).unwrap();
    assert_eq!(Content::of(&session).unwrap(), turns()[2]);
    // Little garbage stays.
    let bytes = fs::read(&path).unwrap();
    drop(session.compact().unwrap());
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_damaged_file_is_not_written_anew() {
    let (folder, path) = place();
    let mut session = create(&path).unwrap();
    let mut turn = turns()[1].clone();
    for byte in 0..20 {
        turn.blocks[1] = vec![byte; BLOCK_BYTES];
        turn.write(&mut session).unwrap();
    }
    let first = session.first;
    drop(session);
    let mut bytes = fs::read(&path).unwrap();
    bytes[first] ^= 1;
    let session = opened(&path, &bytes).unwrap();
    assert!(session.compact().unwrap_err().to_string().contains(": block 0 is damaged: "));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_file_behind_a_link_is_written_anew_with_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut session = create(&link).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut turn = turns()[1].clone();
    for byte in 0..20 {
        turn.blocks[1] = vec![byte; BLOCK_BYTES];
        turn.write(&mut session).unwrap();
    }
    let before = session.commit.end as u64;
    drop(session.compact().unwrap());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let after = fs::metadata(&path).unwrap();
    assert!(after.len() < before);
    assert_eq!(after.permissions().mode() & 0o777, 0o600);
    assert_eq!(Content::of(&open(&link).unwrap()).unwrap(), turn);
}

/// Turns: how many blocks each keeps, and what it adds, with blocks of one byte.
fn any_turns() -> impl Strategy<Value = Vec<(usize, Content)>> {
    let blocks = prop::collection::vec(any::<[u8; 1]>().prop_map(Vec::from), 0..4);
    let tokens = prop::collection::vec(any::<u32>(), 0..20);
    let state = prop::collection::vec(any::<u8>(), 0..40);
    let content = (blocks, tokens, state).prop_map(|(blocks, tokens, state)| Content {
        blocks,
        tokens,
        state,
    });
    prop::collection::vec((0usize..6, content), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_conversation_survives_cuts_and_flips(
        turns in any_turns(),
        block_bytes in 1usize..100,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..9), 20),
    ) {
        let (_folder, path) = place();
        let mut session = SessionFile::create(&path, &identity(), block_bytes as u64).unwrap();
        // Each content of the file, and where it ends.
        let mut history = vec![(session.commit.end, Content::default())];
        for (keep, mut turn) in turns {
            let mut blocks = history.last().unwrap().1.blocks.clone();
            blocks.truncate(keep);
            blocks.extend(turn.blocks.iter().map(|block| block.repeat(block_bytes)));
            turn.blocks = blocks;
            turn.write(&mut session).unwrap();
            let end = session.commit.end;
            session = session.compact().unwrap();
            if session.commit.end < end {
                history = vec![(session.first, Content::default())];
            }
            history.push((session.commit.end, turn));
        }
        drop(session);
        let bytes = fs::read(&path).unwrap();
        for (place, bit) in damage {
            let at = place.index(bytes.len());
            let mut damaged = bytes.clone();
            // The ninth bit: all from there on.
            match bit {
                8 => damaged.truncate(at),
                _ => damaged[at] ^= 1 << bit,
            }
            fs::write(&path, &damaged).unwrap();
            let session = SessionFile::open(&path, &identity(), block_bytes as u64);
            if let Ok(content) = session.and_then(|session| Content::of(&session)) {
                let before = if bit == 8 { at } else { bytes.len() };
                let (_, last) = history.iter().rfind(|(end, _)| *end <= before).unwrap();
                prop_assert_eq!(content, last.clone());
            } else {
                prop_assert!(bit < 8 || at < history[1].0 && at != history[0].0);
            }
            prop_assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}

use super::super::fixture::{BLOCK, PAYLOAD, file_bytes, payload, talk, tokens_of};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use tempfile::TempDir;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

// Stores a block as a writer does.
fn store(directory: &Directory, held: &mut Held, tokens: &[u32], link: &Link, used: SystemTime) {
    if directory.contains(link) {
        return directory.touch(link, used);
    }
    directory.make_room(file_bytes(), held).unwrap().expect("there can be room");
    directory.write(link, tokens_of(tokens, link), &payload(link), used).unwrap();
}

fn read(
    directory: &Directory,
    link: &Link,
    tokens: &[u32],
    bytes: usize,
) -> std::result::Result<Vec<u8>, Absent> {
    let mut payload = vec![0; bytes];
    directory.read(link, tokens, &mut payload).map(|()| payload)
}

fn opened(blocks: u64) -> (TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(&folder.path().join("cache"), blocks * file_bytes()).unwrap();
    (folder, directory)
}

fn all_bytes(directory: &Directory) -> u64 {
    directory.entries().unwrap().iter().map(|entry| entry.bytes).sum()
}

#[test]
fn what_is_not_what_was_written_is_damaged() {
    let (_folder, directory) = opened(10);
    let (tokens, links) = talk(1, 2);
    let [link, other] = [&links[0], &links[1]];
    let own = tokens_of(&tokens, link);
    let read_of = |tokens: &[u32], bytes| read(&directory, link, tokens, bytes);
    let read = || read_of(own, PAYLOAD);
    assert!(matches!(read(), Err(Absent::Unreadable)));
    let mut held = Held::default();
    links.iter().for_each(|link| store(&directory, &mut held, &tokens, link, at(1)));
    assert_eq!(read().unwrap(), payload(link));
    let place = directory.place(link);
    let whole = fs::read(&place).unwrap();
    let is_damaged = |bytes: &[u8]| {
        fs::write(&place, bytes).unwrap();
        matches!(read(), Err(Absent::Damaged))
    };
    for flipped in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[flipped] ^= 1 << (flipped % 8);
        assert!(is_damaged(&bytes), "byte {flipped}");
    }
    for length in [0, 1, 50, file::HEAD_BYTES, file::HEAD_BYTES + 7, whole.len() - 1] {
        assert!(is_damaged(&whole[..length]), "{length} bytes");
    }
    assert!(is_damaged(&[&whole[..], &[0]].concat()));
    // Another block's, another model's file by this name: whole, and not what is asked.
    assert!(is_damaged(&fs::read(directory.place(other)).unwrap()));
    fs::write(&place, &whole).unwrap();
    assert!(matches!(read_of(&[9; BLOCK], PAYLOAD), Err(Absent::Damaged)));
    assert!(matches!(read_of(own, PAYLOAD - 1), Err(Absent::Damaged)));
    assert_eq!(read().unwrap(), payload(link));
    directory.remove(link);
    assert!(!directory.contains(link));
}

#[test]
fn a_conversations_blocks_go_from_its_end_and_the_oldest_conversation_first() {
    let (_folder, directory) = opened(8);
    let mut held = Held::default();
    let [(old, olds), (new, news), (next, nexts)] = [talk(1, 4), talk(2, 4), talk(3, 3)];
    olds.iter().for_each(|link| store(&directory, &mut held, &old, link, at(10)));
    news.iter().for_each(|link| store(&directory, &mut held, &new, link, at(20)));
    let there =
        |links: &[Link]| links.iter().map(|link| directory.contains(link)).collect::<Vec<_>>();
    store(&directory, &mut held, &next, &nexts[0], at(30));
    assert_eq!(there(&olds), [true, true, true, false]);
    // One that is begun with again is no longer the oldest.
    olds.iter().for_each(|link| directory.touch(link, at(40)));
    nexts[1..].iter().for_each(|link| store(&directory, &mut held, &next, link, at(30)));
    assert_eq!(there(&olds), [true, true, true, false]);
    assert_eq!(there(&news), [true, true, false, false]);
    // Nor does an older use make it older.
    olds.iter().for_each(|link| directory.touch(link, at(5)));
    let (last, lasts) = talk(4, 2);
    lasts.iter().for_each(|link| store(&directory, &mut held, &last, link, at(50)));
    assert_eq!((there(&news), there(&nexts)), (vec![false; 4], vec![true; 3]));
    assert_eq!(there(&olds), [true, true, true, false]);
    assert!(all_bytes(&directory) <= 8 * file_bytes());
    assert!(directory.make_room(9 * file_bytes(), &mut held).unwrap().is_none());
    // A smaller limit holds from the beginning.
    let smaller = Directory::open(directory.path(), 3 * file_bytes()).unwrap();
    assert_eq!(smaller.make_room(0, &mut Held::default()).unwrap(), Some(6));
    assert_eq!(there(&lasts), [true, true]);
}

#[test]
fn the_oldest_make_room_on_a_disk_that_is_full_before_the_limit() {
    let (_folder, directory) = opened(1000);
    let mut held = Held::default();
    assert_eq!(directory.shrink(&mut held).unwrap(), 0);
    let [(old, olds), (new, news)] = [talk(1, 20), talk(2, 20)];
    olds.iter().for_each(|link| store(&directory, &mut held, &old, link, at(10)));
    news.iter().for_each(|link| store(&directory, &mut held, &new, link, at(20)));
    // A sixteenth of forty.
    assert_eq!(directory.shrink(&mut held).unwrap(), 3);
    assert!(news.iter().chain(&olds[..17]).all(|link| directory.contains(link)));
    assert!(!olds[17..].iter().any(|link| directory.contains(link)));
    assert_eq!(held.bytes, all_bytes(&directory));
}

#[test]
fn what_a_killed_process_left_is_removed_in_time_and_other_files_never() {
    let (_folder, directory) = opened(4);
    let (tokens, links) = talk(1, 2);
    let mut held = Held::default();
    store(&directory, &mut held, &tokens, &links[0], at(1));
    let unfinished = directory.path().join(UNFINISHED);
    assert_eq!(fs::read_dir(&unfinished).unwrap().count(), 0);
    let whole = fs::read(directory.place(&links[0])).unwrap();
    let [young, old] = ["7-young", "7-old"].map(|name| unfinished.join(name));
    for path in [&young, &old] {
        fs::write(path, &whole[..500]).unwrap();
    }
    let then = SystemTime::now() - 2 * ABANDONED;
    File::options().append(true).open(&old).unwrap().set_modified(then).unwrap();
    let folder = directory.path().join("ab");
    make(&folder).unwrap();
    let others = [directory.path().join("notes.1"), folder.join("notes.1"), folder.join("x")];
    others.iter().for_each(|path| fs::write(path, vec![0; 9000]).unwrap());
    assert!(!directory.contains(&links[1]));
    let mut anew = Held::default();
    directory.make_room(4 * file_bytes(), &mut anew).unwrap();
    assert!(young.exists() && !old.exists() && !directory.contains(&links[0]));
    assert!(others.iter().all(|path| path.exists()));
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let (_folder, directory) = opened(4);
    let (tokens, links) = talk(1, 1);
    // Its name is taken by what no file can replace.
    fs::create_dir_all(directory.place(&links[0]).join("full")).unwrap();
    let own = tokens_of(&tokens, &links[0]);
    assert!(directory.write(&links[0], own, &payload(&links[0]), at(1)).is_err());
    assert_eq!(fs::read_dir(directory.path().join(UNFINISHED)).unwrap().count(), 0);
}

#[test]
fn two_that_write_the_same_at_the_same_time_leave_it_whole() {
    let (_folder, directory) = opened(1000);
    let (tokens, links) = talk(1, 40);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let own = Directory::open(directory.path(), directory.limit).unwrap();
                let mut held = Held::default();
                for link in &links {
                    store(&own, &mut held, &tokens, link, at(1));
                    let read = read(&own, link, tokens_of(&tokens, link), PAYLOAD);
                    assert_eq!(read.unwrap(), payload(link));
                }
            });
        }
    });
    assert_eq!(all_bytes(&directory), 40 * file_bytes());
}

#[derive(Clone, Debug)]
enum Deed {
    Store { process: usize, talk: u32, blocks: usize },
    Read { talk: u32 },
    Damage { talk: u32, block: usize },
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0..2usize, 0..5u32, 1..7usize)
            .prop_map(|(process, talk, blocks)| Deed::Store { process, talk, blocks }),
        3 => (0..5u32).prop_map(|talk| Deed::Read { talk }),
        1 => (0..5u32, 0..6usize).prop_map(|(talk, block)| Deed::Damage { talk, block }),
    ];
    proptest::collection::vec(deed, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // Whatever two processes do: what is read is what was stored, and all of it is within the limit.
    #[test]
    fn any_order_of_deeds_gives_back_what_was_stored(deeds in deeds(), limit in 6u64..20) {
        let (_folder, one) = opened(limit);
        let other = Directory::open(one.path(), one.limit).unwrap();
        let mut held = [Held::default(), Held::default()];
        let talks: HashMap<u32, _> = (0..5).map(|seed| (seed, talk(seed, 6))).collect();
        for (now, deed) in (1..).zip(deeds) {
            match deed {
                Deed::Store { process, talk, blocks } => {
                    let (tokens, links) = &talks[&talk];
                    let directory = [&one, &other][process];
                    for link in &links[..blocks] {
                        store(directory, &mut held[process], tokens, link, at(now));
                        // The other process may have written a sixteenth of the limit, and one block, since it was looked at.
                        let most = one.limit + one.limit / SLACK + 2 * file_bytes();
                        prop_assert!(all_bytes(&one) <= most);
                    }
                }
                Deed::Read { talk } => {
                    let (tokens, links) = &talks[&talk];
                    for link in links {
                        match read(&one, link, tokens_of(tokens, link), PAYLOAD) {
                            Ok(read) => prop_assert_eq!(read, payload(link)),
                            Err(Absent::Damaged) => one.remove(link),
                            Err(Absent::Unreadable) => {}
                        }
                    }
                }
                Deed::Damage { talk, block } => {
                    let link = &talks[&talk].1[block];
                    if let Ok(mut bytes) = fs::read(one.place(link)) {
                        bytes[150] ^= 1;
                        fs::write(one.place(link), bytes).unwrap();
                    }
                }
            }
        }
        // One process alone is within the limit itself.
        one.make_room(0, &mut Held::default()).unwrap();
        prop_assert!(all_bytes(&one) <= one.limit);
    }
}

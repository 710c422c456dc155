use super::super::key::{Chain, Scheme};
use super::super::rest::REST;
use super::*;
use pollster::block_on;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn warn(line: &str) {
    WARNED.lock().unwrap().push(line.to_string());
}

// Blocks of a conversation, and what is noted of it.
fn blocks(count: u32) -> (Vec<Block>, Arc<Hole>) {
    let scheme = Scheme::new(&[], 4, 0);
    let tokens: Vec<u32> = (0..count * 4).collect();
    let mut chain = Chain::default();
    chain.extend(&scheme, &tokens);
    let block = |block| Block {
        link: chain.link(block),
        tokens: scheme.tokens(&tokens, block).to_vec(),
        payload: vec![7; 1000],
        used: chain.used,
        hole: chain.hole.clone(),
    };
    ((0..count as usize).map(block).collect(), chain.hole.clone())
}

// What came of writing some blocks to a directory, and what was warned of.
fn write(path: &Path, limit: u64, count: u32) -> (super::super::PrefixStats, Vec<String>) {
    let directory = Arc::new(Directory::open(path, limit).unwrap());
    let shared = Arc::new(Shared::default());
    let mut writer = Writer::start(directory, None, warn, shared.clone(), REST).unwrap();
    for block in blocks(count).0 {
        while !writer.has_room() {
            block_on(writer.wait());
        }
        writer.order(Order::Write(vec![block]));
    }
    block_on(writer.finish());
    (shared.stats().prefix, std::mem::take(&mut *WARNED.lock().unwrap()))
}

// One test, since what is warned of is one list.
#[test]
fn all_is_written_before_the_end_and_what_cannot_be_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (stats, warned) = write(&path, 1 << 20, 3 * QUEUE as u32);
    let one = (super::super::file::HEAD_BYTES + 16 + 1000) as u64;
    assert_eq!((stats.written_bytes, stats.failed), (24 * one, 0));
    assert!(warned.is_empty(), "{warned:?}");
    // What is there is not written again, and what is damaged there is for readers to find.
    assert_eq!(write(&path, 1 << 20, 24).0.written_bytes, 0);

    // Nothing can be written where unfinished files would be.
    let path = folder.path().join("full");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("unfinished"), "").unwrap();
    let (stats, warned) = write(&path, 1 << 20, 20);
    assert_eq!((stats.written_bytes, stats.failed), (0, 20));
    let [line] = &warned[..] else { panic!("{warned:?}") };
    assert!(line.contains("full stores nothing for now: "), "{line}");

    let (stats, warned) = write(&folder.path().join("small"), 1000, 2);
    assert_eq!((stats.written_bytes, stats.failed), (0, 2));
    assert!(warned.len() == 1 && warned[0].contains("more than all may have"), "{warned:?}");
}

#[test]
fn behind_what_could_not_be_written_nothing_is_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let directory = Arc::new(Directory::open(&path, 1 << 20).unwrap());
    let shared = Arc::new(Shared::default());
    // It is tried again at once.
    let rest = Duration::ZERO;
    let mut writer = Writer::start(directory.clone(), None, |_| (), shared.clone(), rest).unwrap();
    let (all, hole) = blocks(6);
    let links: Vec<Link> = all.iter().map(|block| block.link).collect();
    let there = || links.iter().map(|link| directory.contains(link)).collect::<Vec<_>>();
    let mut write = |block: Block| {
        writer.order(Order::Write(vec![block]));
        block_on(writer.wait());
    };
    for block in all {
        let number = block.link.block;
        if number == 2 {
            fs::remove_dir(path.join("unfinished")).unwrap();
            fs::write(path.join("unfinished"), "").unwrap();
        }
        write(block);
        if number == 2 {
            fs::remove_file(path.join("unfinished")).unwrap();
        }
    }
    assert_eq!(there(), [true, true, false, false, false, false]);
    assert_eq!(shared.stats().prefix.failed, 4);
    assert_eq!((hole.take(), hole.take()), (Some(2), None));
    // Once it goes on from there, all is.
    let again = blocks(6).0.into_iter().skip(2);
    again.for_each(|block| write(Block { hole: hole.clone(), ..block }));
    assert_eq!((there(), hole.take()), (vec![true; 6], None));
}

use super::super::fixture::{PAYLOAD, file_bytes, payload, talk, tokens_of};
use super::super::places::Places;
use super::*;
use pollster::block_on;
use std::fs;
use std::path::Path;

static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn url(folder: &Path) -> String {
    fs::create_dir_all(folder).unwrap();
    format!("file://{}", folder.display())
}

// A machine: its directory, and a bucket.
fn machine(folder: &Path, name: &str, url: &str) -> (Places, Arc<Shared>) {
    let directory = Arc::new(Directory::open(&folder.join(name), 1 << 20).unwrap());
    let shared = Arc::<Shared>::default();
    let warn = |line: &str| WARNED.lock().unwrap().push(line.to_owned());
    let bucket = Bucket::open(url, directory.clone(), warn, shared.clone()).unwrap();
    (Places { directory, bucket: Some(Arc::new(bucket)), shared: shared.clone() }, shared)
}

fn write(places: &Places, tokens: &[u32], links: &[Link]) {
    for link in links {
        let (own, payload) = (tokens_of(tokens, link), payload(link));
        places.directory.write(link, own, &payload, SystemTime::now()).unwrap();
    }
}

fn send(places: &Places, links: &[Link]) {
    let uploads = Uploads::start(places.bucket.clone().unwrap()).unwrap();
    uploads.send(links.to_vec());
    block_on(uploads.finish());
}

fn read(places: &Places, tokens: &[u32], link: &Link) -> Option<Vec<u8>> {
    let mut payload = vec![0; PAYLOAD];
    places.read(link, tokens_of(tokens, link), &mut payload, SystemTime::now()).then_some(payload)
}

#[test]
fn what_one_machine_has_another_one_gets_and_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let (tokens, links) = talk(1, 5);
    let (one, of_one) = machine(folder.path(), "one", &url(&shared));
    write(&one, &tokens, &links[..4]);
    assert_eq!(one.find(&links), 4);
    // What is asked for twice is sent once, and what is not there is not.
    send(&one, &links);
    send(&one, &links);
    let file = file_bytes();
    assert_eq!(of_one.stats().prefix.sent_bytes, 4 * file);

    let (two, of_two) = machine(folder.path(), "two", &url(&shared));
    assert_eq!((two.find(&links), two.find(&links[4..]), two.find(&[])), (4, 0, 0));
    for link in &links[..4] {
        assert_eq!(read(&two, &tokens, link).unwrap(), payload(link));
    }
    assert_eq!(read(&two, &tokens, &links[4]), None);
    assert_eq!(of_two.stats().prefix.fetched_bytes, 4 * file);
    let bucket = two.bucket.as_ref().unwrap();
    assert!(bucket.has_come());
    assert_eq!((bucket.came(), bucket.has_come()), (4 * file, false));
    // It has them itself from then on.
    fs::remove_dir_all(&shared).unwrap();
    assert_eq!(read(&two, &tokens, &links[0]).unwrap(), payload(&links[0]));
    assert_eq!(of_two.stats().prefix.fetched_bytes, 4 * file);
    assert_eq!(of_two.stats().prefix.bucket_failed, 0);
}

#[test]
fn what_is_damaged_is_neither_sent_nor_taken() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let (tokens, links) = talk(1, 2);
    let (one, _) = machine(folder.path(), "one", &url(&shared));
    write(&one, &tokens, &links);
    let of_one = folder.path().join("one").join(place(&links[0]));
    let whole = fs::read(&of_one).unwrap();
    // Its tokens and its payload, its lengths, and its end.
    for (at, length) in [(120, whole.len()), (whole.len() - 1, whole.len()), (16, whole.len())] {
        let mut bytes = whole[..length].to_vec();
        bytes[at] ^= 0xff;
        fs::write(&of_one, &bytes).unwrap();
        send(&one, &links);
        assert!(!shared.join(place(&links[0])).exists(), "byte {at}");
    }
    for length in [0, 50, whole.len() - 1] {
        fs::write(&of_one, &whole[..length]).unwrap();
        send(&one, &links);
        assert!(!shared.join(place(&links[0])).exists(), "{length} bytes");
    }
    assert!(shared.join(place(&links[1])).exists());
    fs::write(&of_one, &whole).unwrap();
    send(&one, &links);

    let (two, of_two) = machine(folder.path(), "two", &url(&shared));
    let damaged = || of_two.stats().prefix.damaged;
    fs::write(shared.join(place(&links[0])), &whole[..500]).unwrap();
    assert_eq!((read(&two, &tokens, &links[0]), damaged()), (None, 1));
    // It is removed, and a sound one takes its place.
    assert!(!two.directory.contains(&links[0]) && !shared.join(place(&links[0])).exists());
    // Who sent it believes for a while that it is there; others do not.
    send(&one, &links);
    assert_eq!(read(&two, &tokens, &links[0]), None);
    let (anew, _) = machine(folder.path(), "one", &url(&shared));
    send(&anew, &links);
    assert_eq!(read(&two, &tokens, &links[0]).unwrap(), payload(&links[0]));
    // Another block's, of the same size.
    fs::copy(shared.join(place(&links[0])), shared.join(place(&links[1]))).unwrap();
    assert_eq!((read(&two, &tokens, &links[1]), damaged()), (None, 2));

    // What is damaged here alone is got from there, where it stays.
    let here = folder.path().join("two").join(place(&links[0]));
    fs::write(&here, "damaged").unwrap();
    assert_eq!(read(&two, &tokens, &links[0]).unwrap(), payload(&links[0]));
    assert!(damaged() == 3 && shared.join(place(&links[0])).exists());
    assert_eq!(fs::read(&here).unwrap(), whole);
}

#[test]
fn a_bucket_that_fails_is_none_for_a_while_and_that_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    let (tokens, links) = talk(1, 3);
    let (one, stats) = machine(folder.path(), "one", &url(&shared));
    write(&one, &tokens, &links[..1]);
    // A file is where their folders should be.
    for link in &links {
        fs::write(shared.join(place(link)).parent().unwrap(), "").unwrap();
    }
    let problem = "the prefix bucket file://";
    let warned = || WARNED.lock().unwrap().iter().filter(|line| line.starts_with(problem)).count();
    assert_eq!(read(&one, &tokens, &links[1]), None);
    assert_eq!((warned(), stats.stats().prefix.bucket_failed), (1, 1), "{:?}", WARNED.lock());
    // What the directory has is there, and nothing is asked for that it lacks.
    assert_eq!(one.find(&links), 1);
    assert_eq!(read(&one, &tokens, &links[2]), None);
    assert_eq!(stats.stats().prefix.bucket_failed, 1);
    // Sending is another matter: some are sent at a time, and then none.
    send(&one, &links);
    let failed = stats.stats().prefix.bucket_failed;
    assert_eq!(warned(), 2);
    send(&one, &links);
    assert_eq!((warned(), stats.stats().prefix.bucket_failed), (2, failed));
    assert_eq!(read(&one, &tokens, &links[0]).unwrap(), payload(&links[0]));
}

#[test]
fn what_is_no_address_of_a_bucket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(folder.path(), 1 << 20).unwrap());
    for url in [
        "",
        "bucket",
        "s3://",
        "s3:///folder",
        "file://folder",
        "gs://b/f",
        "s3://b/a//b",
        "s3://b/../c",
    ] {
        let made = Bucket::open(url, directory.clone(), |_| (), Arc::default());
        let error = made.err().unwrap_or_else(|| panic!("{url:?}")).to_string();
        assert!(error.starts_with(&format!("the prefix bucket is {url}, but ")), "{error}");
    }
}

//! The page, in Chromium where that is here.

use super::client::Served;
use std::path::Path;
use std::process::Command;

#[test]
fn the_page_asks_shows_and_stops() {
    let playwright = "web/conformance/node_modules/playwright-core";
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    for (what, is_there) in [
        ("node", Command::new("node").arg("--version").output().is_ok()),
        ("playwright-core", Path::new(playwright).exists()),
        ("chromium", Path::new(&chromium).exists()),
    ] {
        if !is_there {
            eprintln!("skipped: the page is not tried, {what} is missing (tools/setup web)");
            return;
        }
    }
    let served = Served::new(&["--context", "1024", "--attention", "dense"]);
    let document = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(document.path(), "A document of some length. ".repeat(20)).unwrap();
    let mut command = Command::new("node");
    command.arg("tests/all/server/page.mjs").arg(format!("http://{}/", served.address));
    command.arg(document.path()).env_remove("VK_DRIVER_FILES");
    command.args(std::env::var_os("ASYNCTLS_TEST_SCREENSHOT"));
    let output = command.output().expect("node starts");
    assert!(output.status.success(), "{output:?}");
}

//! Tests that other tests of the process would disturb, or that would disturb them.

const ALONE: &str = "ASYNCTLS_TEST_ALONE";

/// Whether this process runs that test alone. If it does not, another one has done so by now, and passed.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut own = std::process::Command::new(std::env::current_exe().expect("a path"));
    let output = own.args([test, "--exact"]).env(ALONE, "1").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

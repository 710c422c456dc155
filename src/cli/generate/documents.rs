//! Documents that are read before the question.

use crate::cli::{prompt, terminal};
use asynctls::Result;
use std::path::{Path, PathBuf};

/// The documents, each as it is laid out before the question: between marks that name it, and an empty line after it.
pub fn read(paths: &[PathBuf]) -> Result<Vec<String>> {
    let text = |path: &PathBuf| Ok(lay_out(path, &prompt::from_file("--document", path)?));
    paths.iter().map(text).collect()
}

fn lay_out(path: &Path, text: &str) -> String {
    let name = if prompt::is_stdin(path) {
        "standard input".into()
    } else {
        path.file_name().unwrap_or_default().to_string_lossy()
    };
    let name = terminal::visible(&name).replace('"', "'");
    format!("<document name=\"{name}\">\n{text}\n</document>\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_marked_and_named() {
        let laid = lay_out("books/a \"b\"\n.txt".as_ref(), "One.\nTwo.");
        assert_eq!(laid, "<document name=\"a 'b'\\n.txt\">\nOne.\nTwo.\n</document>\n\n");
        assert!(lay_out("-".as_ref(), "x").starts_with("<document name=\"standard input\">\nx\n"));
    }
}

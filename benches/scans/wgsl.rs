//! Assembles a scan's WGSL: constants first, then the files, with their repeats expanded.
//!
//! `//!repeat i COUNT` ... `//!end` repeats the lines between with `$i` replaced by 0, 1, ... COUNT - 1, where COUNT is a
//! number or a constant. Loops over registers are written so because a loop that the driver does not unroll keeps its
//! arrays in memory.

/// The text of a shader module.
pub fn assemble(files: &[&str], constants: &[(&str, u32)]) -> String {
    let mut text = String::new();
    for (name, value) in constants {
        text += &format!("const {name}: u32 = {value}u;\n");
    }
    for file in files {
        expand(&mut file.lines(), constants, &mut text);
    }
    text
}

// Expands up to the end of the text or of the repeat that the lines are inside of.
fn expand<'a>(lines: &mut std::str::Lines<'a>, constants: &[(&str, u32)], text: &mut String) {
    while let Some(line) = lines.next() {
        if line == "//!end" {
            return;
        }
        let Some(repeat) = line.strip_prefix("//!repeat ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (variable, count) = repeat.split_once(' ').expect("a variable and a count");
        let count = count.parse().unwrap_or_else(|_| {
            constants.iter().find(|(name, _)| *name == count).expect("a known constant").1
        });
        let mut body = String::new();
        expand(lines, constants, &mut body);
        for i in 0..count {
            text.push_str(&body.replace(&format!("${variable}"), &i.to_string()));
        }
    }
}

//! Templates rendered as transformers render them. `tools/goldens/chat_templates.py` writes the expected texts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// All of them.
#[derive(Deserialize)]
pub struct Goldens {
    templates: BTreeMap<String, String>,
    pub cases: Vec<Case>,
}

/// A conversation, and what a template makes of it.
#[derive(Deserialize)]
pub struct Case {
    pub template: String,
    pub messages: Vec<Message>,
    pub add_generation_prompt: bool,
    thinking: Option<bool>,
    /// `None`: an error.
    pub expected: Option<String>,
}

impl Goldens {
    pub fn read() -> Self {
        let text = include_str!("../../../tests/goldens/chat_templates.json");
        serde_json::from_str(text).unwrap()
    }

    /// The template of a case.
    pub fn template(&self, case: &Case) -> Result<ChatTemplate> {
        let mut template = ChatTemplate::new(&self.templates[&case.template])?;
        if let Some(enabled) = case.thinking {
            template.set_thinking(enabled)?;
        }
        Ok(template)
    }
}

#[test]
fn templates_say_what_transformers_make_of_them() {
    let goldens = Goldens::read();
    assert!(goldens.cases.len() > 250);
    let mut wrong = Vec::new();
    for case in &goldens.cases {
        let Case { template, messages, add_generation_prompt, expected, .. } = case;
        let found = goldens
            .template(case)
            .and_then(|t| t.render(messages, *add_generation_prompt, "<s>", "</s>"));
        if found.as_ref().ok() != expected.as_ref() {
            wrong.push(format!("{template}\nfound    {found:?}\nexpected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of these are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

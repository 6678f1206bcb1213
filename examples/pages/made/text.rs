//! The texts of packaging/manual, and how they are written: paragraphs, lists whose items begin with "* ", blocks of
//! literal lines behind four blanks, headings "## ". `words` are literal, [words](link) a link. The first part of a text
//! has no heading. Both the manual pages and docs/cli.md are made of them.

/// A text, in parts.
pub(crate) struct Text {
    pub(crate) parts: Vec<Part>,
}

/// A part of a text.
pub(crate) struct Part {
    /// Its heading; none of the first.
    pub(crate) heading: Option<String>,
    pub(crate) blocks: Vec<Block>,
}

/// What a part consists of.
pub(crate) enum Block {
    Paragraph(String),
    /// The items of a list.
    Items(Vec<String>),
    /// Lines that stay as they are.
    Literal(Vec<String>),
}

impl Text {
    /// Reads a text in which the lines "{name}" stand for these literal blocks.
    pub(crate) fn parse(source: &str, blocks: &[(&str, String)]) -> Self {
        let mut parts = vec![Part { heading: None, blocks: Vec::new() }];
        let mut lines = source.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(heading) = line.strip_prefix("## ") {
                parts.push(Part { heading: Some(heading.to_owned()), blocks: Vec::new() });
                continue;
            }
            let Some(part) = parts.last_mut() else { continue };
            if let Some((_, literal)) = blocks.iter().find(|(name, _)| line == format!("{{{name}}}")) {
                part.blocks.push(Block::Literal(literal.lines().map(str::to_owned).collect()));
            } else if let Some(literal) = line.strip_prefix("    ") {
                let mut literals = vec![literal.to_owned()];
                // A blank line is within a block where it goes on behind it.
                while let Some(next) = lines.next_if(|next| next.starts_with("    ") || next.is_empty()) {
                    literals.push(next.strip_prefix("    ").unwrap_or_default().to_owned());
                }
                while literals.last().is_some_and(String::is_empty) {
                    literals.pop();
                }
                part.blocks.push(Block::Literal(literals));
            } else if !line.is_empty() {
                let mut text = line.to_owned();
                while let Some(next) = lines.next_if(|next| !next.is_empty() && !next.starts_with("* ")) {
                    text = format!("{text} {}", next.trim_start());
                }
                part.add(text);
            }
        }
        Self { parts }
    }
}

impl Part {
    fn add(&mut self, text: String) {
        match (text.strip_prefix("* "), self.blocks.last_mut()) {
            (Some(item), Some(Block::Items(items))) => items.push(item.to_owned()),
            (Some(item), _) => self.blocks.push(Block::Items(vec![item.to_owned()])),
            (None, _) => self.blocks.push(Block::Paragraph(text)),
        }
    }
}

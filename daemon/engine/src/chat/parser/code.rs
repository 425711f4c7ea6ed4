//! Where a text shows code in the Markdown sense: what stands there is an example and no call
//! (P10, P11).
//!
//! Fences are lines that begin with three or more backticks or tildes; they last until a line of at
//! least as many, or the end. Inline code lies between equal runs of backticks. It ends with its
//! line here: a lone backtick must not hide a call that comes paragraphs later.

/// Follows a text one character at a time.
#[derive(Debug, Clone)]
pub(super) struct Code {
    /// The open fence.
    fence: Option<Fence>,
    /// Backticks that opened the inline code.
    span: Option<usize>,
    /// The run of backticks or tildes at the end of the text.
    run: Option<Run>,
    /// Whether only white space came in this line.
    blank: bool,
    /// Whether the line so far closes the fence, if only white space follows.
    closing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Fence {
    mark: char,
    len: usize,
    /// Its first line is not over: backticks there mean that it was inline code.
    opening: bool,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    mark: char,
    len: usize,
    /// Whether only white space came before it in its line.
    first: bool,
}

impl Code {
    pub(super) fn new() -> Self {
        Self { fence: None, span: None, run: None, blank: true, closing: false }
    }

    pub(super) fn push(&mut self, c: char) {
        match &mut self.run {
            Some(run) if run.mark == c => run.len += 1,
            _ => {
                if let Some(run) = self.run.take() {
                    self.end_run(run);
                }
                if matches!(c, '`' | '~') {
                    self.run = Some(Run { mark: c, len: 1, first: self.blank });
                }
            }
        }
        self.closing &= c.is_whitespace();
        self.blank &= c.is_whitespace();
        if c == '\n' {
            self.end_line();
        }
    }

    /// Whether the text behind the last character that was no backtick is code.
    pub(super) fn is_code(&self) -> bool {
        self.fence.is_some() || self.span.is_some()
    }

    /// Whether the text is inside a fence.
    pub(super) fn is_fenced(&self) -> bool {
        self.fence.is_some()
    }

    /// Something that is no Markdown ended here.
    pub(super) fn end_value(&mut self) {
        self.blank = false;
    }

    fn end_run(&mut self, run: Run) {
        let Run { mark, len, first } = run;
        match (&mut self.fence, self.span) {
            (Some(fence), _) if fence.opening => {
                if mark == '`' && fence.mark == '`' && fence.len == len {
                    self.fence = None;
                }
            }
            (Some(fence), _) => self.closing = first && fence.mark == mark && len >= fence.len,
            (None, None) if first && len >= 3 => self.fence = Some(Fence { mark, len, opening: true }),
            (None, _) if mark == '~' => {}
            (None, Some(open)) if open == len => self.span = None,
            (None, Some(_)) => {}
            (None, None) => self.span = Some(len),
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.closing) {
            self.fence = None;
        }
        if let Some(fence) = &mut self.fence {
            fence.opening = false;
        }
        self.span = None;
        self.blank = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The characters of a text that are `x` and no code.
    fn count(text: &str) -> usize {
        let mut code = Code::new();
        let mut count = 0;
        for c in text.chars() {
            code.push(c);
            count += usize::from(c == 'x' && !code.is_code());
        }
        count
    }

    #[test]
    fn fences_and_inline_code_are_found() {
        let cases = [
            ("x `x` x", 2),
            ("``x ` x`` x", 1),
            ("it's ` x\nx", 1),
            ("```\nx\n```\nx", 1),
            ("  ```js\nx\n``\nx\n````  \nx", 1),
            ("~~~\nx\n```\nx\n~~~\nx", 1),
            ("a ```\nx", 1),
            ("```x``` x\nx", 2),
            ("```\nx\n``` x\nx", 0),
            ("~ ~~ x", 1),
        ];
        for (text, expected) in cases {
            assert_eq!(count(text), expected, "{text:?}");
        }
    }
}

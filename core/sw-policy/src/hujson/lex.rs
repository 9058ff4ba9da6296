//! Splits HuJSON text into tokens and keeps the comments between them.

use crate::error::{Kind, Problem, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Colon,
    Comma,
    String,
    Number,
    True,
    False,
    Null,
    End,
}

/// A comment before a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comment {
    pub(super) span: Span,
    /// Line ends between the thing before and this comment.
    pub(super) newlines_before: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Span,
    /// The comments since the token before.
    pub(super) comments: Vec<Comment>,
    /// Line ends between the last comment (or the token before) and this token.
    pub(super) newlines_before: usize,
}

pub(super) fn problem(kind: Kind, start: usize, end: usize, message: String, fix: &str) -> Problem {
    Problem { kind, span: Span { start, end }, message, fix: fix.to_owned() }
}

/// Returns all tokens of `text`, the last one being `End`, or the first thing that is no token.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Problem> {
    let mut lexer = Lexer { text, at: 0 };
    let mut found = Vec::new();
    loop {
        let token = lexer.next_token()?;
        let is_end = token.kind == TokenKind::End;
        found.push(token);
        if is_end {
            return Ok(found);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, start: usize, message: String, fix: &str) -> Problem {
        let end = self.at.max(start + 1).min(self.text.len());
        problem(Kind::HujsonSyntax, start, end, message, fix)
    }

    fn next_token(&mut self) -> Result<Token, Problem> {
        let (comments, newlines_before) = self.trivia()?;
        let start = self.at;
        let kind = match self.peek() {
            None => TokenKind::End,
            Some('{') => self.single(TokenKind::OpenBrace),
            Some('}') => self.single(TokenKind::CloseBrace),
            Some('[') => self.single(TokenKind::OpenBracket),
            Some(']') => self.single(TokenKind::CloseBracket),
            Some(':') => self.single(TokenKind::Colon),
            Some(',') => self.single(TokenKind::Comma),
            Some('"') => self.string()?,
            Some('-' | '0'..='9') => self.number()?,
            Some(other) => self.word(other)?,
        };
        Ok(Token { kind, span: Span { start, end: self.at }, comments, newlines_before })
    }

    fn single(&mut self, kind: TokenKind) -> TokenKind {
        self.at += 1;
        kind
    }

    fn trivia(&mut self) -> Result<(Vec<Comment>, usize), Problem> {
        let mut comments = Vec::new();
        let mut newlines = 0;
        loop {
            match self.peek() {
                Some('\n') => {
                    newlines += 1;
                    self.at += 1;
                }
                Some(' ' | '\t' | '\r') => self.at += 1,
                Some('/') => {
                    let start = self.at;
                    self.comment()?;
                    comments.push(Comment { span: Span { start, end: self.at }, newlines_before: newlines });
                    newlines = 0;
                }
                Some(_) | None => return Ok((comments, newlines)),
            }
        }
    }

    fn comment(&mut self) -> Result<(), Problem> {
        let start = self.at;
        if self.rest().starts_with("//") {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            return Ok(());
        }
        if !self.rest().starts_with("/*") {
            return Err(self.error(start, "a lone \"/\"".to_owned(), "write a comment as // … or /* … */"));
        }
        match self.rest().get(2..).and_then(|body| body.find("*/")) {
            Some(length) => {
                self.at += length + 4;
                Ok(())
            }
            None => {
                self.at += 2;
                Err(self.error(start, "a comment without an end".to_owned(), "close the comment with */"))
            }
        }
    }

    fn string(&mut self) -> Result<TokenKind, Problem> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None | Some('\n' | '\r') => {
                    let message = "a string without an end".to_owned();
                    return Err(self.error(start, message, "close the string with \" on the same line"));
                }
                Some('"') => {
                    self.at += 1;
                    return Ok(TokenKind::String);
                }
                Some('\\') => {
                    self.at += 1;
                    self.at += self.peek().map_or(0, char::len_utf8);
                }
                Some(control) if control < ' ' => {
                    let at = self.at;
                    let message = format!("the control character {control:?} inside a string");
                    return Err(self.error(at, message, "write it as an escape such as \\t or \\u0007"));
                }
                Some(other) => self.at += other.len_utf8(),
            }
        }
    }

    fn number(&mut self) -> Result<TokenKind, Problem> {
        let start = self.at;
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        self.at += self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        let written = self.text.get(start..self.at).unwrap_or("");
        if is_json_number(written) {
            return Ok(TokenKind::Number);
        }
        let message = format!("{written:?} is not a number of JSON");
        Err(self.error(start, message, "write plain decimal digits, or put the text in double quotes"))
    }

    fn word(&mut self, first: char) -> Result<TokenKind, Problem> {
        let start = self.at;
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        self.at += length.max(first.len_utf8());
        let word = self.text.get(start..self.at).unwrap_or("");
        let (message, fix) = match word {
            "true" => return Ok(TokenKind::True),
            "false" => return Ok(TokenKind::False),
            "null" => return Ok(TokenKind::Null),
            "'" => {
                ("a single quote where a value or name should stand".to_owned(), "use double quotes: \"…\"")
            }
            "#" => ("\"#\" does not begin a comment".to_owned(), "begin comments with // instead"),
            "\u{feff}" => {
                ("a byte order mark".to_owned(), "save the file as UTF-8 without a byte order mark")
            }
            _ if length == 0 => (format!("unexpected character {first:?}"), "remove it"),
            _ => (format!("{word:?} without quotes"), "put it in double quotes"),
        };
        Err(self.error(start, message, fix))
    }
}

fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

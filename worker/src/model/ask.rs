//! What an agent asks of people during a turn: permissions and questions, and what is answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::redact::Redactor;

/// Who answers what the agents of a project ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskPolicy {
    /// No, at once, with a visible warning.
    #[default]
    Reject,
    /// Yes, at once.
    Allow,
    /// A person, from the inbox; no, once the deadline is over.
    Inbox,
}

impl AskPolicy {
    /// Reads the value of `projects.ask_policy`. What this version does not know is answered with no.
    pub fn parse(text: &str) -> Self {
        match text {
            "allow" => Self::Allow,
            "inbox" => Self::Inbox,
            _ => Self::Reject,
        }
    }
}

/// What kind of ask it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whether it may do something.
    Permission {
        /// What: bash, external_directory, read, ...
        permission: String,
        /// Which commands or paths.
        patterns: Vec<String>,
    },
    /// Something that it wants to know.
    Questions(Vec<Question>),
}

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The whole question.
    pub question: String,
    /// What it proposes to answer; another answer is as good.
    pub options: Vec<QuestionOption>,
    /// Whether several of the options may be chosen.
    pub multiple: bool,
}

/// A proposed answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionOption {
    /// The answer.
    pub label: String,
    /// What it means.
    pub description: String,
}

/// An ask that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAsk {
    /// The agent's id of it.
    pub id: String,
    /// What is asked.
    pub asked: Asked,
}

impl OpenAsk {
    /// Takes secrets out of what people will read.
    pub fn redact(&mut self, redactor: &Redactor) {
        let clean = |text: &mut String| *text = redactor.cleaned(std::mem::take(text));
        match &mut self.asked {
            Asked::Permission { patterns, .. } => patterns.iter_mut().for_each(clean),
            Asked::Questions(questions) => {
                for question in questions {
                    clean(&mut question.question);
                    for option in &mut question.options {
                        clean(&mut option.label);
                        clean(&mut option.description);
                    }
                }
            }
        }
    }

    /// The value of `asks.kind`.
    pub fn kind(&self) -> &'static str {
        match self.asked {
            Asked::Permission { .. } => "permission",
            Asked::Questions(_) => "question",
        }
    }

    /// The value of `asks.what`.
    pub fn what(&self) -> Value {
        match &self.asked {
            Asked::Permission { permission, patterns } => {
                serde_json::json!({"permission": permission, "patterns": patterns})
            }
            Asked::Questions(questions) => serde_json::json!({"questions": questions}),
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        match &self.asked {
            Asked::Permission { permission, patterns } if patterns.is_empty() => {
                format!("may it use \"{permission}\"?")
            }
            Asked::Permission { permission, patterns } => {
                format!("may it use \"{permission}\" ({})?", patterns.join(", "))
            }
            Asked::Questions(questions) => {
                questions.iter().map(|question| question.question.as_str()).collect::<Vec<_>>().join(" / ")
            }
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may, this time.
    Once,
    /// It may, from now on, in this worktree.
    Always,
    /// It may not, or gets no answer. With a message the agent goes on, without one its turn stops.
    Reject {
        /// What it is to do instead.
        message: Option<String>,
    },
    /// What is answered to each question: chosen labels, or words of one's own.
    Replies(Vec<Vec<String>>),
}

/// An answer, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub answer: Answer,
    /// Who gave it.
    pub by: AnsweredBy,
}

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The project's policy, at once.
    Policy,
    /// A person, by the name of the database role.
    Person(String),
    /// Nobody answered in time.
    Deadline,
}

impl Decision {
    /// What the policy answers by itself; none: a person does.
    pub fn by_policy(policy: AskPolicy, ask: &OpenAsk) -> Option<Self> {
        let answer = match (policy, &ask.asked) {
            (AskPolicy::Inbox, _) => return None,
            (AskPolicy::Allow, Asked::Permission { .. }) => Answer::Once,
            // Nobody can say yes to "which?".
            (AskPolicy::Allow, Asked::Questions(_)) | (AskPolicy::Reject, _) => Answer::Reject { message: None },
        };
        Some(Self { answer, by: AnsweredBy::Policy })
    }

    /// What is answered where nobody did so in time.
    pub fn by_deadline() -> Self {
        Self { answer: Answer::Reject { message: None }, by: AnsweredBy::Deadline }
    }

    /// The answer in a word, or in those of the person.
    pub fn in_words(&self) -> String {
        match &self.answer {
            Answer::Once => "once".to_owned(),
            Answer::Always => "always".to_owned(),
            Answer::Reject { .. } => "reject".to_owned(),
            Answer::Replies(replies) => replies.iter().map(|labels| labels.join(", ")).collect::<Vec<_>>().join(" / "),
        }
    }

    /// What people should know of afterwards: that something was refused, and by whom.
    pub fn warning(&self, ask: &OpenAsk) -> Option<String> {
        let Answer::Reject { message } = &self.answer else { return None };
        let refused = match (&self.by, message) {
            (AnsweredBy::Policy, _) => "was refused".to_owned(),
            (AnsweredBy::Person(who), None) => format!("was refused by {who}"),
            (AnsweredBy::Person(who), Some(message)) => format!("was refused by {who}: {message}"),
            (AnsweredBy::Deadline, _) => "was refused, as nobody answered in time".to_owned(),
        };
        Some(match (&ask.asked, &self.by) {
            (Asked::Permission { permission, patterns }, _) => {
                let what = if patterns.is_empty() { String::new() } else { format!(" ({})", patterns.join(", ")) };
                format!("the agent asked for the permission \"{permission}\"{what} and {refused}")
            }
            (Asked::Questions(_), AnsweredBy::Policy) => {
                "the agent asked a question, which nobody is there to answer".to_owned()
            }
            (Asked::Questions(_), AnsweredBy::Person(who)) => {
                format!("the agent asked a question, which {who} did not answer")
            }
            (Asked::Questions(_), AnsweredBy::Deadline) => {
                "the agent asked a question, which nobody answered in time".to_owned()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission() -> OpenAsk {
        let asked = Asked::Permission { permission: "bash".to_owned(), patterns: vec!["touch x".to_owned()] };
        OpenAsk { id: "per_1".to_owned(), asked }
    }

    fn question() -> OpenAsk {
        let question = Question { question: "Which?".to_owned(), ..Question::default() };
        OpenAsk { id: "que_1".to_owned(), asked: Asked::Questions(vec![question]) }
    }

    #[test]
    fn a_policy_answers_by_itself_unless_a_person_is_to() {
        let answer = |policy, ask: &OpenAsk| Decision::by_policy(policy, ask).map(|decision| decision.answer);
        let no = Some(Answer::Reject { message: None });
        assert_eq!(answer(AskPolicy::Reject, &permission()), no);
        assert_eq!(answer(AskPolicy::Reject, &question()), no);
        assert_eq!(answer(AskPolicy::Allow, &permission()), Some(Answer::Once));
        assert_eq!(answer(AskPolicy::Allow, &question()), no);
        assert_eq!(answer(AskPolicy::Inbox, &permission()), None);
        assert_eq!(answer(AskPolicy::Inbox, &question()), None);
        assert_eq!(AskPolicy::parse("something newer"), AskPolicy::Reject);
    }

    #[test]
    fn a_refusal_says_whose_it_is() {
        let by = |by, message: Option<&str>| {
            let answer = Answer::Reject { message: message.map(str::to_owned) };
            Decision { answer, by }.warning(&permission()).unwrap_or_default()
        };
        assert!(by(AnsweredBy::Policy, None).ends_with("\"bash\" (touch x) and was refused"));
        assert!(by(AnsweredBy::Person("ada".to_owned()), Some("use git")).ends_with("refused by ada: use git"));
        assert!(by(AnsweredBy::Deadline, None).ends_with("nobody answered in time"));
        assert_eq!(Decision { answer: Answer::Once, by: AnsweredBy::Policy }.warning(&permission()), None);
    }
}

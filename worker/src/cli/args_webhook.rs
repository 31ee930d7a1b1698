//! The command line's words about webhooks.

use clap::{Args, Subcommand, ValueEnum};

use crate::model::{
    ids::{DeliveryId, WebhookId},
    webhook::Kind,
};

#[derive(Debug, Subcommand)]
pub(super) enum Webhook {
    /// Have new items of the inbox posted to a URL, signed
    Add(WebhookAdd),
    /// List webhooks
    Ls,
    /// Remove a webhook with its deliveries
    Rm(OneWebhook),
    /// Turn a webhook on again, for what comes from now on
    Enable(OneWebhook),
    /// Turn a webhook off; what is pending waits
    Disable(OneWebhook),
    /// Post a delivery that tells nothing, from this machine, and say what came of it
    Test(OneWebhook),
    /// List what was posted, or is to be, newest first
    Deliveries(Deliveries),
    /// Post deliveries again that were given up
    Retry(Retry),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand webhook add https://hooks.example.com/millhand
  millhand webhook add https://hooks.example.com/done --event task.completed --project acme
  millhand webhook add http://10.0.0.7:8080/ --allow-private

Posts follow Standard Webhooks: verify webhook-signature with the secret, which is shown only once, and drop what you had
before by its webhook-id: each item is posted at least once. README.md says what is posted.")]
pub(super) struct WebhookAdd {
    /// Where to; https, unless --allow-private
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// What it is told; may be repeated [default: what needs you: the first four]
    #[arg(long = "event", value_name = "KIND")]
    pub(super) events: Vec<Event>,
    /// Only of this project
    #[arg(long, short, value_name = "NAME")]
    pub(super) project: Option<String>,
    /// It may be on this machine or in a private network, and without TLS
    #[arg(long)]
    pub(super) allow_private: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Event {
    /// A task failed for good
    #[value(name = "task.failed")]
    TaskFailed,
    /// A task is blocked until you have looked
    #[value(name = "task.blocked")]
    TaskBlocked,
    /// Something else is in the inbox
    #[value(name = "task.needs_you")]
    TaskNeedsYou,
    /// Tasks wait for a host that has had no worker for a while
    #[value(name = "host.gone")]
    HostGone,
    /// A task completed
    #[value(name = "task.completed")]
    TaskCompleted,
    /// A completed task changed files, which are ready for review
    #[value(name = "change_set.ready")]
    ChangeSetReady,
}

impl From<Event> for Kind {
    fn from(event: Event) -> Self {
        match event {
            Event::TaskFailed => Self::TaskFailed,
            Event::TaskBlocked => Self::TaskBlocked,
            Event::TaskNeedsYou => Self::TaskNeedsYou,
            Event::HostGone => Self::HostGone,
            Event::TaskCompleted => Self::TaskCompleted,
            Event::ChangeSetReady => Self::ChangeSetReady,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct OneWebhook {
    /// Webhook (wh3)
    #[arg(value_name = "WEBHOOK", value_parser = parse_webhook)]
    pub(super) webhook: WebhookId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand webhook deliveries
  millhand webhook deliveries --state dead
  millhand webhook deliveries wh3 --json | jq .payload")]
pub(super) struct Deliveries {
    /// Only of this webhook (wh3)
    #[arg(value_name = "WEBHOOK", value_parser = parse_webhook)]
    pub(super) webhook: Option<WebhookId>,
    /// Only in this state
    #[arg(long, value_name = "STATE")]
    pub(super) state: Option<DeliveryState>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DeliveryState {
    /// To be posted
    Pending,
    /// The receiver has it
    Delivered,
    /// Given up
    Dead,
}

impl DeliveryState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millhand webhook retry d17 d18
  millhand webhook retry --dead             all that were given up
  millhand webhook retry --dead --webhook wh3

A worker posts them, at once. One that waits for its next try is not waited for.")]
pub(super) struct Retry {
    /// Deliveries (d17)
    #[arg(value_name = "DELIVERY", value_parser = parse_delivery, required_unless_present = "dead")]
    pub(super) ids: Vec<DeliveryId>,
    /// All that were given up
    #[arg(long, conflicts_with = "ids")]
    pub(super) dead: bool,
    /// Only of this webhook (wh3)
    #[arg(long, value_name = "WEBHOOK", value_parser = parse_webhook, requires = "dead")]
    pub(super) webhook: Option<WebhookId>,
}

fn parse_webhook(text: &str) -> Result<WebhookId, String> {
    number(text, "wh").map(WebhookId).ok_or_else(|| format!("\"{text}\" is not a webhook: use wh3"))
}

fn parse_delivery(text: &str) -> Result<DeliveryId, String> {
    number(text, "d").map(DeliveryId).ok_or_else(|| format!("\"{text}\" is not a delivery: use d17"))
}

/// The number of an id; where only one kind can be meant, a bare number is one.
fn number(text: &str, prefix: &str) -> Option<i64> {
    let digits = text.strip_prefix(prefix).unwrap_or(text);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

//! Streams of events from the daemon.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use tonic::Streaming;

use crate::error::{Error, SharedEndpoint};
use crate::v1;

pub use crate::v1::import_event::Event as ImportEvent;
pub use crate::v1::load_event::Event as LoadEvent;

/// Events of one call, as they come. Dropping it ends the call: a load or an import that is not done is
/// given up, a watch is closed.
#[must_use = "dropping it ends the call"]
pub struct Events<T> {
    stream: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
}

/// What changed among the models.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are models")]
#[derive(Clone, Debug, PartialEq)]
pub enum ModelChange {
    /// This is how a model is now.
    Changed(v1::Model),
    /// A model of this name left the store.
    Removed(String),
    /// The opening list is complete; all that follows are changes.
    InSync,
}

impl<T> Events<T> {
    /// The next event; none once the call has ended.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        self.stream.next().await
    }

    /// Waits for the first event, which is kept: up to there the daemon may still refuse.
    pub(crate) async fn begun(mut self) -> Result<Self, Error>
    where
        T: Send + 'static,
    {
        let first = self.next().await.transpose()?;
        Ok(Self::new(stream::iter(first.map(Ok)).chain(self.stream)))
    }

    pub(crate) fn new(stream: impl Stream<Item = Result<T, Error>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream) }
    }
}

impl<T> Stream for Events<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Turns the messages of a call into events. A message may hold none, which a newer daemon may send, or
/// several.
pub(crate) fn decode<W, T, I>(
    wire: Streaming<W>,
    endpoint: SharedEndpoint,
    events: fn(W) -> I,
) -> impl Stream<Item = Result<T, Error>> + Send
where
    W: Send + 'static,
    T: Send + 'static,
    I: IntoIterator<Item = T> + 'static,
{
    wire.flat_map(move |message| {
        let decoded: Vec<_> = match message {
            Ok(message) => events(message).into_iter().map(Ok).collect(),
            Err(status) => vec![Err(Error::from_status(&status, &endpoint))],
        };
        stream::iter(decoded)
    })
}

/// Ends after the event that closes the work, or after an error; an end without either is an error.
pub(crate) fn until<T: Send + 'static>(
    events: impl Stream<Item = Result<T, Error>> + Send + 'static,
    is_last: fn(&T) -> bool,
) -> impl Stream<Item = Result<T, Error>> + Send {
    stream::unfold(Some(Box::pin(events)), move |open| async move {
        let mut events = open?;
        match events.next().await {
            Some(Ok(event)) if is_last(&event) => Some((Ok(event), None)),
            Some(Ok(event)) => Some((Ok(event), Some(events))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(Error::Protocol("the stream ended before its last event")), None)),
        }
    })
}

/// One message may change a model and close the opening list.
pub(crate) fn model_changes(event: v1::ModelEvent) -> impl Iterator<Item = ModelChange> {
    let v1::ModelEvent { model, removed, in_sync } = event;
    let removed = Some(removed).filter(|name| !name.is_empty());
    let in_sync = in_sync.then_some(ModelChange::InSync);
    model.map(ModelChange::Changed).into_iter().chain(removed.map(ModelChange::Removed)).chain(in_sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collected(items: Vec<Result<u32, Error>>) -> Vec<Result<u32, String>> {
        let events = until(stream::iter(items), |item| *item == 9);
        events.map(|item| item.map_err(|error| error.to_string())).collect().await
    }

    #[tokio::test]
    async fn a_stream_ends_after_its_last_event() {
        assert_eq!(collected(vec![Ok(1), Ok(9), Ok(2)]).await, [Ok(1), Ok(9)]);
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_says_so() {
        let got = collected(vec![Ok(1)]).await;
        assert_eq!(got[0], Ok(1));
        assert!(got[1].as_ref().is_err_and(|text| text.contains("before its last event")), "{got:?}");
        assert_eq!(got.len(), 2);
    }

    #[tokio::test]
    async fn an_error_ends_a_stream() {
        let got = collected(vec![Err(Error::deadline()), Ok(9)]).await;
        assert_eq!(got, [Err("the deadline of the call passed".to_owned())]);
    }

    #[test]
    fn one_message_may_hold_a_model_and_the_end_of_the_list() {
        let model = v1::Model { name: "demo:latest".to_owned(), ..v1::Model::default() };
        let event = v1::ModelEvent { model: Some(model.clone()), in_sync: true, ..v1::ModelEvent::default() };
        let changes: Vec<_> = model_changes(event).collect();
        assert_eq!(changes, [ModelChange::Changed(model), ModelChange::InSync]);
    }
}

//! The request side of an import: a header, then the file in chunks.

use std::io;

use futures_util::future::{self, Future};
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;

use crate::v1::{self, import_request::Part};

/// Bytes per message: large enough that framing costs nothing, half of what the API allows.
const CHUNK_BYTES: usize = 512 << 10;

/// Keeps an upload going: dropping it ends the messages. The daemon knows the size of the whole, so it never
/// takes a part for it.
#[derive(Debug)]
pub(crate) struct Upload(#[expect(dead_code, reason = "its drop is what matters")] oneshot::Sender<()>);

/// The file as messages, a future that resolves only where the file cannot be read, and what keeps the
/// messages coming. After a failure no message follows.
pub(crate) fn upload<R>(
    header: v1::ImportHeader,
    reader: R,
) -> (impl Stream<Item = v1::ImportRequest> + Send, impl Future<Output = io::Error> + Send, Upload)
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let (failed, failure) = oneshot::channel();
    let (wanted, unwanted) = oneshot::channel();
    let left = header.size_bytes;
    let parts = stream::once(future::ready(Part::Header(header))).chain(chunks(reader, left, failed));
    let failure = async {
        match failure.await {
            Ok(error) => error,
            Err(_all_was_read) => future::pending().await,
        }
    };
    (parts.map(|part| v1::ImportRequest { part: Some(part) }).take_until(unwanted), failure, Upload(wanted))
}

fn chunks<R>(reader: R, left: u64, failed: oneshot::Sender<io::Error>) -> impl Stream<Item = Part> + Send
where
    R: AsyncRead + Send + Unpin + 'static,
{
    stream::unfold((reader, left, failed), |(mut reader, left, failed)| async move {
        if left == 0 {
            return None;
        }
        let size = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut chunk = vec![0; size];
        match reader.read_exact(&mut chunk).await {
            Ok(_) => Some((Part::Chunk(chunk), (reader, left - size as u64, failed))),
            Err(error) => {
                // The receiver is gone only where the call is, and then nobody polls this.
                drop(failed.send(error));
                future::pending().await
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn header(size_bytes: u64) -> v1::ImportHeader {
        v1::ImportHeader { size_bytes, ..v1::ImportHeader::default() }
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_behind_its_header() {
        let file: Vec<u8> = (0..=255).cycle().take(CHUNK_BYTES + 3).collect();
        let (parts, _failure, _upload) = upload(header(file.len() as u64), Cursor::new(file.clone()));
        let parts: Vec<_> = parts.filter_map(|request| future::ready(request.part)).collect().await;
        assert!(matches!(parts[0], Part::Header(_)));
        let sent: Vec<u8> = parts[1..]
            .iter()
            .flat_map(|part| match part {
                Part::Chunk(chunk) => chunk.clone(),
                Part::Header(_) => panic!("a second header"),
            })
            .collect();
        assert_eq!(sent, file);
        assert_eq!(parts.len(), 3);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_fails_and_ends_once_nobody_wants_it() {
        let (parts, failure, upload) = upload(header(10), Cursor::new(vec![0; 4]));
        let mut parts = Box::pin(parts);
        assert!(parts.next().await.is_some());
        let error = tokio::select! {
            part = parts.next() => panic!("sent {part:?}"),
            error = failure => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(upload);
        assert_eq!(parts.next().await, None);
    }
}

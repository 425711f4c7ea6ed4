//! What the parser says: typed pieces of the answer, in order.

/// One piece of the answer. Deltas only ever append; nothing said is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More of the model's thinking.
    Reasoning(String),
    /// More of the answer.
    Text(String),
    /// A call to a declared tool begins.
    ToolCallStarted {
        /// Position of the call in the answer, from 0.
        index: u32,
        /// The declared name.
        name: String,
    },
    /// More of the arguments of the call.
    ToolCallArguments {
        /// Which call.
        index: u32,
        /// Bytes of the model's own JSON text.
        json: String,
    },
    /// The call is whole; it repeats what its parts said.
    ToolCallCompleted {
        /// Which call.
        index: u32,
        /// The declared name.
        name: String,
        /// JSON text of an object, as the model wrote it.
        arguments: String,
    },
}

/// How the model's text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended its turn, or a stop string was met.
    Natural,
    /// A limit cut it: tokens or context.
    Limit,
}

/// Why the answer is over, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The answer is complete.
    Stop,
    /// A limit cut it.
    Length,
    /// It is complete and calls at least one tool.
    ToolCalls,
}

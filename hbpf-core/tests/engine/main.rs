//! The engine, from pieces of streams to exchanges.

mod calls;
mod connections;
mod endings;
mod eventstream;
mod grpc;
mod http2;
mod judging;
mod losses;
mod stdio;
mod websocket;
mod wire;

//! The native door: WebSocket for our own clients, in JSON text or in binary frames (`docs/native-protocol.md`).

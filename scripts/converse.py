"""A streamed conversation with Hearth through generated stubs: two turns, the second with the first."""

import sys

import grpc
from hearth.v1 import inference_pb2, inference_pb2_grpc, types_pb2


def ask(stub, messages):
    """Streams one answer and returns its text."""
    request = inference_pb2.GenerateRequest(
        model="demo",
        max_tokens=64,
        prompt=inference_pb2.Prompt(
            conversation=inference_pb2.Conversation(
                messages=messages, thinking=inference_pb2.THINKING_OFF
            )
        ),
    )
    text, finished = "", None
    for event in stub.Generate(request, timeout=60):
        if event.HasField("text"):
            text += event.text.text
            print(event.text.text, end="", flush=True)
        elif event.HasField("finished"):
            finished = event.finished
    print()
    assert finished is not None, "the stream has a terminal event"
    assert text, "the answer has text"
    return text


def say(role, text):
    return types_pb2.Message(role=role, parts=[types_pb2.ContentPart(text=text)])


def main(address):
    # gRPC's C core would send the socket's path as authority, which HTTP/2 servers in Rust refuse.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(address, options) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        messages = [say(types_pb2.ROLE_USER, "Hello!")]
        messages.append(say(types_pb2.ROLE_ASSISTANT, ask(stub, messages)))
        messages.append(say(types_pb2.ROLE_USER, "What is 2 plus 3?"))
        ask(stub, messages)


if __name__ == "__main__":
    main(sys.argv[1])

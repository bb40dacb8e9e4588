"""llama.cpp on token ids: prefill and greedy decode, one JSON line of tokens per second.

    python3 benches/peers/llama.py MODEL.gguf --prompt 512 --tokens 64 --threads 2
    python3 benches/peers/llama.py MODEL.gguf --ids FILE

FILE holds `prompt` and `ids`: the first are read at once, then each of the others, in place of greedy decoding.

Needs llama-cpp-python, built from its source distribution for this processor.
"""

import argparse
import ctypes
import json
import time

import llama_cpp as llama
import numpy as np


def scattered(path):
    """Advises MADV_RANDOM for the memory map of a file."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(path):
                begin, end = (int(word, 16) for word in line.split()[0].split("-"))
                assert ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 1) == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--ids")
    parser.add_argument("--scattered", action="store_true", help="tell the system to read only pages that are touched")
    for name, value in dict(prompt=512, decode_prompt=16, tokens=64, threads=2).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    if args.scattered:
        scattered(args.model)
    params = llama.llama_context_default_params()
    params.n_ctx = 1024
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, params)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def run(ids):
        array = (llama.llama_token * len(ids))(*ids)
        assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids))) == 0
        logits = llama.llama_get_logits_ith(context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (vocab,))))

    def prefill(count):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        ids = [int(x) for x in np.random.default_rng(0).integers(0, vocab, count)]
        started = time.perf_counter()
        token = run(ids)
        return token, count / (time.perf_counter() - started)

    if args.ids:
        with open(args.ids) as file:
            given = json.load(file)
        run(given["prompt"])
        started = time.perf_counter()
        for token in given["ids"][:-1]:
            run([token])
        print(json.dumps({"decode": (len(given["ids"]) - 1) / (time.perf_counter() - started)}))
        return

    prefill(args.prompt)
    _, reading = prefill(args.prompt)
    token, _ = prefill(args.decode_prompt)
    started = time.perf_counter()
    for _ in range(args.tokens):
        token = run([token])
    writing = args.tokens / (time.perf_counter() - started)
    print(json.dumps({"prefill": reading, "decode": writing}))


if __name__ == "__main__":
    main()

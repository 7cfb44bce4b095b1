"""One engine that tools/bench-peers drives, in a process of its own: llama.cpp or transformers. Reads a request a line, answers
with a line: {"logits": [ids], "to": FILE.npy}, {"prefill": N}, {"decode": BATCH, "context": C, "tokens": N}."""
import json
import sys
import time


def prompt(sequence, n, n_vocab):
    """The tokens that `signalbox bench --turns` takes too."""
    state, out = 2 * sequence + 1, []
    for _ in range(n):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append((state >> 8) % n_vocab)
    return out


class Compiled:
    """llama.cpp's functions as the package llama-cpp-python has them: compiled for this processor."""
    package = "llama-cpp-python"

    def __init__(self):
        import ctypes
        import llama_cpp
        self.c = llama_cpp
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: tell_error(level, text))
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))

    def row(self, pointer, n):
        import numpy as np
        return np.ctypeslib.as_array(pointer, (n,))

    def text(self, found):
        return found.decode()


class Prebuilt:
    """The same of llama-cpp-py-sync, which brings libraries for any processor with AVX2."""
    package = "llama-cpp-py-sync"

    def __init__(self):
        from llama_cpp_py_sync import _cffi_bindings as bindings
        self.ffi, self.c = bindings.ffi, bindings.get_lib()
        self.log = self.ffi.callback("ggml_log_callback", lambda level, text, data: tell_error(level, self.ffi.string(text)))
        self.c.llama_log_set(self.log, self.ffi.NULL)

    def row(self, pointer, n):
        import numpy as np
        return np.frombuffer(self.ffi.buffer(pointer, 4 * n), np.float32)

    def text(self, found):
        return self.ffi.string(found).decode()


def tell_error(level, text):
    if level == 4:
        sys.stderr.write(text.decode())


class Llama:
    def __init__(self, path, threads, positions, sequences):
        import importlib.util
        self.api = (Compiled if importlib.util.find_spec("llama_cpp") else Prebuilt)()
        self.c, self.threads = self.api.c, threads
        self.c.llama_backend_init()
        self.model = self.c.llama_model_load_from_file(path.encode(), self.c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.n_vocab = self.c.llama_vocab_n_tokens(self.c.llama_model_get_vocab(self.model))
        options = self.c.llama_context_default_params()
        options.n_ctx, options.n_seq_max = sequences * positions, sequences
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = threads
        self.context = self.c.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.memory = self.c.llama_get_memory(self.context)
        self.batch = self.c.llama_batch_init(512, 0, 1)
        self.held = None   # the case whose prompts are in the cache

    def about(self):
        return {"version": f"{self.api.package} {version(self.api.package)}",
                "system": self.api.text(self.c.llama_print_system_info()).strip(), "kv": "f16", "threads": self.threads}

    def run(self, tokens):
        """tokens: (id, position, sequence, whether its logits are wanted), at most 512."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        code = self.c.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode: expected 0, found {code}")
        self.c.llama_synchronize(self.context)

    def read(self, sequence, ids):
        for at in range(0, len(ids), 512):
            part = ids[at:at + 512]
            self.run([(t, at + i, sequence, at + i == len(ids) - 1) for i, t in enumerate(part)])

    def clear(self):
        self.c.llama_memory_clear(self.memory, True)
        self.held = None

    def logits(self, ids):
        import numpy as np
        self.clear()
        self.run([(t, i, 0, True) for i, t in enumerate(ids)])
        return np.stack([self.api.row(self.c.llama_get_logits_ith(self.context, i), self.n_vocab).copy()
                         for i in range(len(ids))])

    def prefill(self, n):
        self.clear()
        ids = prompt(0, n, self.n_vocab)
        start = time.perf_counter()
        self.read(0, ids)
        return time.perf_counter() - start

    def best(self, row):
        return int(self.api.row(self.c.llama_get_logits_ith(self.context, row), self.n_vocab).argmax())

    def decode(self, batch, context, n):
        if self.held != (batch, context):
            self.clear()
            self.first = []
            for s in range(batch):
                self.read(s, prompt(s, context, self.n_vocab))
                self.first.append(self.best(-1))
            self.held = (batch, context)
        for s in range(batch):
            self.c.llama_memory_seq_rm(self.memory, s, context, -1)
        tokens = list(self.first)
        start = time.perf_counter()
        for i in range(n):
            self.run([(t, context + i, s, True) for s, t in enumerate(tokens)])
            tokens = [self.best(s) for s in range(batch)]
        return (time.perf_counter() - start) / n


class Transformers:
    def __init__(self, path, threads, positions, sequences):
        import torch
        import transformers
        self.torch, self.transformers = torch, transformers
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        self.n_vocab = self.model.config.vocab_size
        self.held, self.best_ways = None, {}

    def about(self):
        return {"version": f"transformers {self.transformers.__version__}, torch {self.torch.__version__}",
                "dtype": str(self.model.dtype), "attention": self.model.config._attn_implementation,
                "experts": self.best_ways, "threads": self.torch.get_num_threads()}

    def ways(self):
        return ["grouped_mm", "eager", "batched_mm"] if hasattr(self.model, "set_experts_implementation") else []

    def choose(self, key, measure):
        """Takes the way of computing the experts that is fastest for this case: measured once, before the rounds."""
        if key not in self.best_ways:
            found = {}
            for way in self.ways():
                if way == "batched_mm" and key[0] != "decode":
                    continue   # gathers each token's experts: not meant for prompts
                try:
                    self.model.set_experts_implementation(way)
                    measure()
                    found[way] = measure()
                except Exception as error:   # a way that this version, dtype or processor lacks
                    print(f"transformers: {way} left out: {str(error).splitlines()[0]}", file=sys.stderr)
            self.best_ways[key] = min(found, key=found.get) if found else None
        if self.best_ways[key]:
            self.model.set_experts_implementation(self.best_ways[key])

    def logits(self, ids):
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([ids])).logits[0].float().numpy()

    def prefill(self, n):
        ids = self.torch.tensor([prompt(0, n, self.n_vocab)])

        def measure():
            with self.torch.inference_mode():
                start = time.perf_counter()
                self.model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
                return time.perf_counter() - start

        self.choose(("prefill", n), measure)
        return measure()

    def decode(self, batch, context, n):
        torch = self.torch
        if self.held != (batch, context):
            if self.ways():
                self.model.set_experts_implementation(self.best_ways.get(("prefill", 512)) or "eager")
            ids = torch.tensor([prompt(s, context, self.n_vocab) for s in range(batch)])
            with torch.inference_mode():
                out = self.model(ids, use_cache=True, logits_to_keep=1)
            self.cache, self.first = out.past_key_values, out.logits[:, -1:].argmax(-1)
            self.held = (batch, context)

        def measure():
            with torch.inference_mode():
                added = self.cache.get_seq_length() - context
                if added:
                    self.cache.crop(-added)   # a positive number, the length to keep, is not taken by every version
                tokens = self.first
                start = time.perf_counter()
                for _ in range(n):
                    tokens = self.model(tokens, past_key_values=self.cache, use_cache=True).logits[:, -1:].argmax(-1)
                return (time.perf_counter() - start) / n

        self.choose(("decode", batch, context), measure)
        return measure()


def version(package):
    import importlib.metadata
    return importlib.metadata.version(package)


def main():
    engine, path, threads, positions, sequences = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    answers = sys.stdout
    sys.stdout = sys.stderr   # whatever a library prints
    peer = {"llama.cpp": Llama, "transformers": Transformers}[engine](path, threads, positions, sequences)

    def say(**line):
        print(json.dumps(line), file=answers, flush=True)

    say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "logits" in request:
                import numpy as np
                np.save(request["to"], peer.logits(request["logits"]))
                say(done=True)
            elif "prefill" in request:
                say(seconds=peer.prefill(request["prefill"]))
            elif "decode" in request:
                say(seconds=peer.decode(request["decode"], request["context"], request["tokens"]))
            else:
                about = peer.about()
                if isinstance(about.get("experts"), dict):
                    about["experts"] = {" ".join(map(str, key)): way for key, way in about["experts"].items()}
                say(**about)
        except Exception as error:
            say(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


if __name__ == "__main__":
    main()

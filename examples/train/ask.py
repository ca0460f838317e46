"""Questions made by the reader itself, on passages that nobody asked about.

  python3 ask.py MODEL_DIR SYN_STORE ... --out DATA [--questions 20000] [--keep 2.5]

Takes passages of syn_ stores with the spans that cloze.py picked as possible answers. The reader, which learnt to ask from form g
of rows.py, draws a question for each; a question stays where the reader, pointing at the passage with that question in mind,
finds the span again (the round trip of PAQ, arXiv 2102.07033): -log p(start) - log p(end) below --keep nats. Writes a store
qa_asked_NAME, laid out as prepare.py's, beside each syn_NAME; training takes it in as it appears.
"""
import argparse
import os
import random
import time

import numpy as np
import torch

import evaluate
from prepare import ANSWER, DOC, END, MARKS, QUESTION, write_store
from rows import OFF, Row, Store, packed, within
from train import pointing_nats, to_device

MOST_TOKENS = 28


def drawn(logits, temperature, most=20):
    """A token of each row [R, V], among its `most` likeliest; no mark but <|end|>."""
    logits = logits.float()
    logits[:, [i for i in range(len(MARKS)) if i != END]] = float("-inf")
    high, ids = logits.topk(most)
    return ids.gather(1, torch.multinomial(torch.softmax(high / temperature, 1), 1))[:, 0]


@torch.no_grad()
def questions(reader, prompts, dtype, temperature=0.7):
    """One question (token list, without marks) after each prompt; an empty one where none came to an end."""
    device, rows = reader.embedding.device, len(prompts)
    state = reader.empty_state(rows)
    cu = torch.tensor(np.cumsum([0] + [len(p) for p in prompts]), device=device)
    pos = torch.cat([torch.arange(len(p)) for p in prompts]).to(device)
    h = reader.hidden(torch.tensor(np.concatenate(prompts), device=device).long(), pos, cu, dtype=dtype, state=state)[cu[1:] - 1]
    one, still, out = torch.arange(rows + 1, device=device), torch.zeros(rows, dtype=torch.int32, device=device), []
    for _ in range(MOST_TOKENS):
        out.append(drawn(h @ reader.embedding.T.to(h.dtype), temperature))
        h = reader.hidden(out[-1], still, one, dtype=dtype, state=state)
    said = torch.stack(out, 1).tolist()
    return [q[:q.index(END)] if END in q else [] for q in said]


@torch.no_grad()
def found_again(reader, asked, dtype):
    """-log p(start) - log p(end) of each (passage, question, answer), pointing as tier B does."""
    rows = []
    for passage, question, answer in asked:
        row = Row()
        row.doc(passage, OFF)
        row.ask(question, OFF)
        row.sought(passage, OFF, answer)
        rows.append(row.arrays())
    ids, _, pos, cu, marks, inside = to_device(packed(rows), reader.embedding.device)
    nats, _ = pointing_nats(reader, reader.hidden(ids.long(), pos, cu, dtype=dtype), cu, marks, inside)
    return nats.sum(1).tolist()


def near(store, c, answer):
    """Up to three passages around c of the same article that lack the answer, -1 for none."""
    out = [d for d in (c + 1, c - 1, c + 2, c - 2, c + 3) if 0 <= d < len(store.ctx) and store.art[d] == store.art[c] and not within(answer, store.passage(d))]
    return (out + [-1] * 3)[:3]


def ask_all(reader, store, dtype, most, keep, rng, at_once, seconds):
    """-> the arrays of a store, and how many questions were drawn"""
    began, drawn_so_far, kept = time.time(), 0, {}
    chosen = [k for k in range(len(store.q)) if store.a[k][0] >= 0]
    chosen = sorted(rng.sample(chosen, min(most, len(chosen))))
    for i in range(0, len(chosen), at_once):
        if time.time() - began > seconds:
            break
        part = [(k, store.of_question(k)) for k in chosen[i:i + at_once]]
        spans = [(store.passage(c), np.array(store.answer(k, c))) for k, c in part]
        said = questions(reader, [np.concatenate([[DOC], p, [ANSWER], a, [QUESTION]]) for p, a in spans], dtype)
        drawn_so_far += len(said)
        good = [j for j, q in enumerate(said) if len(q) >= 4 and not within(spans[j][1], np.array(q))]
        for j, nats in zip(good, found_again(reader, [(spans[j][0], said[j], spans[j][1]) for j in good], dtype) if good else []):
            if nats < keep:
                kept.setdefault(part[j][1], []).append((part[j][0], said[j]))
    tok, n, ctx, art, first, q, a, beside = [], 0, [], [], [], [], [], []
    number = {c: i for i, c in enumerate(sorted(kept))}

    def put(ids):
        nonlocal n
        tok.append(np.array(ids, np.uint16))
        n += len(ids)
        return [n - len(ids), n]

    for c in sorted(kept):
        ctx.append(put(store.passage(c)))
        art.append(store.art[c])
        first.append(len(q))
        for k, said in kept[c]:
            q.append(put(said))
            a.append(store.a[k])
            beside.append([number.get(d, -1) for d in near(store, c, store.answer(k, c))])
    arrays = {"tok": np.concatenate(tok) if tok else np.zeros(0, np.uint16), "ctx": np.array(ctx, np.int32).reshape(-1, 2), "art": np.array(art, np.int32),
              "first": np.array(first + [len(q)], np.int32), "q": np.array(q, np.int32).reshape(-1, 2), "a": np.array(a, np.int16).reshape(-1, 2),
              "near": np.array(beside, np.int32).reshape(-1, 3), "made": np.zeros(len(q), np.uint8)}
    return arrays, drawn_so_far


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("stores", nargs="+")
    p.add_argument("--out", required=True)
    p.add_argument("--tokenizer")
    p.add_argument("--questions", type=int, default=20000, help="drawn of each store")
    p.add_argument("--keep", type=float, default=2.5, help="nats")
    p.add_argument("--at-once", type=int, default=1024)
    p.add_argument("--seconds", type=float, default=1e9, help="a store, at most")
    p.add_argument("--show", type=int, default=3)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    if torch.cuda.is_available():
        import kernels
        kernels.time_shortly()
    reader, tokenizer, dtype = evaluate.load(a.model, tokenizer=a.tokenizer)
    for folder in a.stores:
        store, began = Store(folder), time.time()
        arrays, drawn_so_far = ask_all(reader, store, dtype, a.questions, a.keep, random.Random(a.seed), a.at_once, a.seconds)
        n = len(arrays["q"])
        print("%s: %d drawn, %d kept, %.1f s" % (store.name, drawn_so_far, n, time.time() - began), flush=True)
        if not n:
            continue
        name = "qa_asked_" + store.name[len("syn_"):]
        write_store(os.path.join(a.out, name), arrays)
        made = Store(os.path.join(a.out, name))
        for k in range(0, n, max(1, n // max(1, a.show))):
            c = made.of_question(k)
            print("   %s -> %s" % (tokenizer.decode(made.question(k).tolist()), tokenizer.decode(made.answer(k, c).tolist())), flush=True)


if __name__ == "__main__":
    main()

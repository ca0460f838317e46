"""Makes the tiny random encoders beside this file, and what sentence-transformers says of a few texts with them.

    pip install sentence-transformers && python tests/encoders/make.py            # the folders bert/ and roberta/
    python tests/encoders/make.py FOLDER > FOLDER/expected.json                    # expectations of any other encoder

`tests/encoder.rs` compares. Made with sentence-transformers 2.7.0, transformers 4.36.2, PyTorch 1.13.
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

HERE = Path(__file__).parent
TEXTS = [
    "",
    "river",
    "The Nile is a river in Africa.",
    "a title\nand a passage of several words, some of them long: internationalisation",
    "words " * 60,
    "Änderungen, café, 日本語 🍎",
]


def expected(folder):
    model = SentenceTransformer(str(folder), device="cpu")
    prompts = {}
    settings = folder / "config_sentence_transformers.json"
    if settings.exists():
        prompts = json.loads(settings.read_text()).get("prompts", {})
    said = {"texts": TEXTS}
    for role, name in (("questions", "query"), ("passages", "passage")):
        rows = model.encode([prompts.get(name, "") + text for text in TEXTS], normalize_embeddings=True, convert_to_tensor=True)
        said[role] = [[round(float(x), 7) for x in row] for row in rows.tolist()]
    return said


def save(folder, network, tokenizer, pooling, length, prompts):
    folder.mkdir(exist_ok=True)
    network.save_pretrained(folder / "network", safe_serialization=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pooling["pad"], unk_token=pooling["unk"],
        cls_token=pooling["cls"], sep_token=pooling["sep"],
    ).save_pretrained(folder / "network")
    word = models.Transformer(str(folder / "network"), max_seq_length=length)
    pool = models.Pooling(network.config.hidden_size, pooling_mode=pooling["mode"])
    made = SentenceTransformer(modules=[word, pool, models.Normalize()], prompts=prompts)
    made.save(str(folder), create_model_card=False, safe_serialization=True)
    for file in (folder / "network").iterdir():
        file.unlink()
    (folder / "network").rmdir()
    for rest in ("README.md", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"):
        (folder / rest).unlink(missing_ok=True)


def bert():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), "river", "words", "the"]
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=64, initializer_range=0.3,
    )
    marks = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mode": "mean"}
    save(HERE / "bert", shaken(BertModel(config)), tokenizer, marks, 48, {})


def roberta():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    tokenizer = Tokenizer(BPE({w: i for i, w in enumerate(vocabulary)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    config = RobertaConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, initializer_range=0.3, layer_norm_eps=1e-5,
    )
    marks = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mode": "cls"}
    save(HERE / "roberta", shaken(RobertaModel(config)), tokenizer, marks, 64, {"query": "query: ", "passage": "passage: "})


def shaken(network):
    """Biases and norms are not zero and one either."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(expected(Path(sys.argv[1]))))
    else:
        torch.manual_seed(6)
        bert()
        roberta()
        for name in ("bert", "roberta"):
            (HERE / name / "expected.json").write_text(json.dumps(expected(HERE / name)) + "\n")

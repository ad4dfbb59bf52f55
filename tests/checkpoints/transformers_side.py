"""What `transformers` makes of our exports; run by test_transformers.py, in an environment that has torch.

    python tests/checkpoints/transformers_side.py DIRECTORY

Each `DIRECTORY/NAME/ours` is loaded with its tokenizer and generation config. Logits of `token_ids.npy` go to
`NAME/logits.npy`, and the model is saved again, in shards, as `NAME/theirs`. Prints what it read, as JSON.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def main(directory: pathlib.Path) -> None:
    token_ids = torch.from_numpy(np.load(directory / "token_ids.npy"))
    read = {}
    for place in sorted(path for path in directory.iterdir() if path.is_dir()):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            place / "ours", attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(place / "ours")
        with torch.no_grad():
            np.save(place / "logits.npy", model.eval()(token_ids).logits.numpy())
        model.save_pretrained(place / "theirs", max_shard_size="40KB")
        tokenizer.save_pretrained(place / "theirs")
        turn = [{"role": "user", "content": "2 + 2?"}]
        generation = model.generation_config
        read[place.name] = {
            "problems": sorted(str(problem) for kind in info.values() for problem in kind),
            "ids": tokenizer("one 2\n").input_ids,
            "chat": tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True),
            "end_ids": generation.eos_token_id,
            "temperature": generation.temperature,
        }
    print(json.dumps(read))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

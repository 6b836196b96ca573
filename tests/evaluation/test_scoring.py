import torch
from support.chat_templates import CHATML
from support.toys import byte_tokenizer
from transformers import GenerationConfig

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ModelConfig
from fedrouter.data.rows import Message, Row
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.scoring import EvalItem, evaluate_items
from fedrouter.model.base_model import BaseModel

TURNS = (
    Message("system", "Be short."),
    Message("user", "7 8"),
    Message("assistant", "9"),
    Message("user", "10 11"),
)


@torch.no_grad()
def test_a_row_with_a_conversation_is_answered_and_scored_after_all_its_turns(
    tiny_base: BaseModel,
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    base = BaseModel(tiny_base.model, tokenizer, ModelConfig())
    row = Row("7 8\n\n10 11", "12", messages=TURNS)
    single = Row("7 8\n\n10 11", "12")
    with MultiAdapterModel(base, LoraSpec(), {}) as multi_adapter:
        results = evaluate_items(multi_adapter, [EvalItem(row, ()), EvalItem(single, ())], 6)
    for item, result in results.items():
        turns = item.row.messages or (Message("user", item.row.instruction),)
        chat = [{"role": turn.role, "content": turn.content} for turn in turns]
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        length = ids.shape[1]
        greedy = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0)
        answer = base.model.generate(ids, generation_config=greedy)[0, length:]
        assert result.text == tokenizer.decode(answer, skip_special_tokens=True)
        response = torch.tensor([[*tokenizer("12").input_ids, 1]])
        whole = torch.cat([ids, response], 1)
        logits = base.model(whole).logits[0, length - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, response[0])
        torch.testing.assert_close(torch.tensor(result.scores["loss"]), loss, check_dtype=False)

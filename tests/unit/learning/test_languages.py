"""Which model is good at what is learned in any language, and which language a model is good at."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.learning.prompt import read
from interlock.learning.published import Expectations, Reader
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer

LAW = {
    "English": ("court", "contract", "appeal", "liability", "statute", "evidence", "judge", "clause"),
    "German": ("gericht", "vertrag", "berufung", "haftung", "gesetz", "beweis", "richter", "klausel"),
    "Russian": ("суд", "договор", "апелляция", "ответственность", "закон", "улика", "судья", "статья"),
    "Arabic": ("محكمة", "عقد", "استئناف", "مسؤولية", "قانون", "دليل", "قاض", "بند"),
    "Chinese": ("法院", "合同", "上诉", "责任", "法律", "证据", "法官", "条款"),
    "Japanese": ("裁判所", "契約", "控訴", "責任", "法律", "証拠", "裁判官", "条項"),
    "Thai": ("ศาล", "สัญญา", "อุทธรณ์", "ความรับผิด", "กฎหมาย", "หลักฐาน", "ผู้พิพากษา", "ข้อ"),
}
FOOD = {
    "English": ("oven", "butter", "onion", "garlic", "flour", "roast", "simmer", "pan"),
    "German": ("ofen", "butter", "zwiebel", "knoblauch", "mehl", "braten", "köcheln", "pfanne"),
    "Russian": ("духовка", "масло", "лук", "чеснок", "мука", "жарить", "тушить", "сковорода"),
    "Arabic": ("فرن", "زبدة", "بصل", "ثوم", "دقيق", "شواء", "غلي", "مقلاة"),
    "Chinese": ("烤箱", "黄油", "洋葱", "大蒜", "面粉", "烘烤", "慢炖", "煎锅"),
    "Japanese": ("オーブン", "バター", "玉ねぎ", "にんにく", "小麦粉", "焼く", "煮込む", "フライパン"),
    "Thai": ("เตาอบ", "เนย", "หัวหอม", "กระเทียม", "แป้ง", "ย่าง", "เคี่ยว", "กระทะ"),
}
WITHOUT_BLANKS = ("Chinese", "Japanese", "Thai")


def _text(language: str, law: bool, rng: np.random.Generator) -> str:
    words = (LAW if law else FOOD)[language]
    return ("" if language in WITHOUT_BLANKS else " ").join(rng.choice(words, 5))


class Published:
    """What a gateway expects of each model, by the state that is published now."""

    def __init__(self, trainer: Trainer) -> None:
        weights, words = trainer.state(1, 0)
        assert words is not None
        self._expectations, self._reader = Expectations(weights), Reader(words)

    def __call__(self, text: str) -> dict[str, int]:
        return dict(self._expectations.estimates(self._reader.signals(text), 1).quality_micro)


@pytest.mark.parametrize("language", LAW)
def test_topics_are_told_apart_in_any_language(language: str) -> None:
    rng = np.random.default_rng(4)
    trainer = Trainer(Plan(), rng)
    trainer.models({"lawyer": Arm(1.0), "cook": Arm(1.0)})
    for n in range(600):
        law, name = bool(rng.random() < 0.5), ("lawyer", "cook")[n % 2]
        good = 0.9 if law == (name == "lawyer") else 0.3
        trainer.outcome(Outcome(name, float(rng.random() < good), "feedback", read(_text(language, law, rng))))
    expected, right = Published(trainer), 0
    for n in range(60):
        found = expected(_text(language, n % 2 == 0, rng))
        right += (found["lawyer"] > found["cook"]) == (n % 2 == 0)
    assert right >= 54, "for nearly every prompt"


def test_a_model_that_is_good_at_one_language_is_known_to_be() -> None:
    rng = np.random.default_rng(5)
    trainer = Trainer(Plan(), rng)
    languages = ("English", "Russian", "Chinese", "Thai")
    names = (*languages, "average")
    trainer.models({name: Arm(1.0) for name in names})
    for n in range(2500):
        language, name = str(rng.choice(languages)), names[n % len(names)]
        good = 0.6 if name == "average" else 0.9 if language == name else 0.3
        trainer.outcome(Outcome(name, float(rng.random() < good), "feedback", read(_text(language, n % 3 == 0, rng))))
    expected = Published(trainer)
    for language in languages:
        found = expected(_text(language, True, rng))
        assert max(found, key=lambda name: found[name]) == language, (language, found)

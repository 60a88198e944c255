"""Body region: which part of a patient a series shows, as far as its headers say.

Body Part Examined speaks first, its defined terms and what people write in their place; then the
names of series and protocol, which were chosen for these images; the names of the study only where
neither of them tells. Where Body Part Examined and the names of the series share no region, the names
count: scanners fill Body Part Examined from a default (it was wrong in 15 % of CR images: Gueld et al.,
Proc. SPIE 4685, 2002). A series may show several regions; nothing told is *unknown*, never a guess.

Source: PS3.3 C.7.3.1.1.2, PS3.16 Annex L (Body Part Examined: terms of CID 4031 and others).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from node.domain.derived.attribute import DerivedAttribute, Kind
from node.domain.header import Header, Missing, Value

REGIONS: Final = (
    *("HEAD", "NECK", "CHEST", "BREAST", "ABDOMEN", "PELVIS", "SPINE", "ARM", "LEG"),
    "PHANTOM",
)
UNTOLD = Missing("neither Body Part Examined nor a name tells")

_WHOLE_BODY = frozenset(("HEAD", "NECK", "CHEST", "BREAST", "ABDOMEN", "PELVIS", "ARM", "LEG"))

# PS3.16 Table L-1, letters and digits only
_TERMS = {
    "HEAD": "HEAD BRAIN SKULL CEREBELLUM FACE EYE EYELID ORBIT CORNEA SCLERA EAR IAC NOSE JAW MOUTH"
    " TONGUE CHEEK MAXILLA MANDIBLE TMJ TMJOINT ZYGOMA SCALP SINUS PSINUSES PITUITARY CIRCLEOFWILLIS"
    " INTCRANIAL INTRACRANIAL HEADNECK HEADNECKCHEST OPTICCANAL SELLA NASALBONE",
    "NECK": "NECK CSPINE CTSPINE CAROTID THYROID LARYNX PHARYNX PAROTID SUBMANDIBULAR HEADNECK"
    " HEADNECKCHEST NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NECKCHESTABDPELVIS",
    "CHEST": "CHEST LUNG BRONCHUS HEART CORONARYARTERY MEDIASTINUM THYMUS RIB STERNUM ESOPHAGUS"
    " TRACHEA THORAX THORAXAORTA THORACICAORTA AORTA HEADNECKCHEST NECKCHEST CHESTABDOMEN"
    " CHESTABDPELVIS CHESTABDOMENPELVIS NECKCHESTABDOMEN NECKCHESTABDPELV NECKCHESTABDPELVIS",
    "BREAST": "BREAST AXILLA",
    "ABDOMEN": "ABDOMEN ABDOMENPELVIS ABDPELVIS LIVER SPLEEN KIDNEY PANCREAS ADRENAL GALLBLADDER"
    " BILEDUCT STOMACH DUODENUM JEJUNUM ILEUM SMALLBOWEL COLON URETER AORTA ABDOMINALAORTA KUB"
    " CHESTABDOMEN CHESTABDPELVIS CHESTABDOMENPELVIS NECKCHESTABDOMEN NECKCHESTABDPELV"
    " NECKCHESTABDPELVIS RETROPERITONEUM RENAL",
    "PELVIS": "PELVIS ABDOMENPELVIS ABDPELVIS CHESTABDPELVIS CHESTABDOMENPELVIS NECKCHESTABDPELV"
    " NECKCHESTABDPELVIS BLADDER PROSTATE RECTUM COLON UTERUS OVARY CERVIX VAGINA VULVA PENIS SCROTUM"
    " TESTIS URETHRA ILIUM HIP BUTTOCK GROIN SIJOINT KUB SACRUM COCCYX",
    "SPINE": "SPINE CSPINE TSPINE LSPINE CTSPINE TLSPINE LSSPINE SSPINE COCCYX SACRUM SPINALCORD BACK"
    " WSPINE WHOLESPINE",
    "ARM": "ARM SHOULDER CLAVICLE SCAPULA HUMERUS ELBOW FOREARM RADIUS ULNA RADIUSULNA WRIST HAND"
    " FINGER THUMB EXTREMITY UPPEREXTREMITY UPPERLIMB ACJOINT UPPERARM",
    "LEG": "LEG HIP THIGH FEMUR KNEE PATELLA CALF TIBIA FIBULA TIBIAFIBULA ANKLE CALCANEUS FOOT TOE"
    " EXTREMITY LOWEREXTREMITY LOWERLIMB LOWERLEG UPPERLEG ANKLEFOOT",
    "PHANTOM": "PHANTOM",
}
_WHOLE_BODY_TERMS = frozenset({"WHOLEBODY", "BODY"})

# English, German, French, Spanish; folded to plain lower case before
_WORDS = {
    "HEAD": r"brains?|heads?|skull|neurocran\w*|(intra)?cerebr\w*|cerebell\w*|(intra)?crani\w*"
    r"|mp ?rage|kopf|schae?del\w*|(ge|klein|gross)?hirn|tete|cerveau|cabeza|cerebro|craneo|orbit\w*"
    r"|paranasal|sinuses|nnh|pituitary|hypophys\w*|sella|iacs?|felsenbeine?|facial|face|mandib\w*"
    r"|maxill\w*|jaw|kiefer|tmj|dental|circle of willis|temporal bones?",
    "NECK": r"necks?|hals\w*|cervical|c ?spine|hws|carotids?|karotis|carotides?|thyroid|schilddruse"
    r"|larynx|pharynx|parotid\w*|parotis|cou|cuello",
    "CHEST": r"chest|thora\w*|lungs?|lungen\w*|lunge|pulmonary|pulmo\w*|mediastin\w*|hearts?|cardiac"
    r"|cardio\w*|herz\w*|coronar(y|ies)|koronar\w*|coronarias?|coronaires?|sternum|ribs?|rippen?"
    r"|poumons?|coeur|torax|corazon|hrct|smart ?score|calcium score|brust|ch abd?|cap",
    "BREAST": r"breasts?|breas|mamma\w*|mammae?|mammo\w*|brust|mamas?",
    "ABDOMEN": r"abdom\w*|abdo?|ch ab|liver|leber|hepat\w*|spleens?|splen\w*|milz|kidneys?|nieren?|renal"
    r"|pancrea\w*|pankrea\w*|adrenals?|nebennieren?|bowel|entero\w*|colon\w*|kolon\w*|urogra\w*"
    r"|kub|mrcp|gall ?bladder|gallenblase|biliary|stomach|magen|foie|reins?|higado|rinon(es)?|bazo"
    r"|vientre|ventre|retroperiton\w*|(ober|unter)?bauch\w*|cap",
    "PELVIS": r"pelvi\w*|pelv|pel|becken\w*|prostat\w*|(urinary )?bladder|harnblase|rectum|rectal"
    r"|rektum|uterus|uterine|ovar\w*|cervix|zervix|sacr\w*|hips?|hufte?n?|huefte?n?|hanches?|caderas?"
    r"|bassin|groin|scrot\w*|testi\w*|cap",
    "SPINE": r"\w*spine|spinal|lumbar|lumbo\w*|vertebra\w*|\w*wirbels\w*|[bhl]ws|myelogra\w*|rachis"
    r"|columna|colonne|thoracic spine|cervical|sacr\w*",
    "ARM": r"arms?|(upper )?extremit\w*|upper limbs?|extremidad\w*|shoulders?|schultern?|epaules?"
    r"|hombros?|humer\w*|elbows?|ellenbogen|ellbogen|coudes?|codos?|forearms?|(unter|ober)arme?|ulna"
    r"|wrists?|handgelenke?|poignets?|munecas?|hands?|mano|fingers?|thumbs?|daumen|scapula|clavic\w*",
    "LEG": r"legs?|(ober|unter)schenkel|beine?|jambes?|piernas?|thighs?|cuisses?|muslos?|femur|femora"
    r"|femoral|femoro\w*|knees?|knie|genoux?|rodillas?|calf|calves|tibia\w*|fibula\w*"
    r"|(lower )?extremit\w*|lower limbs?|extremidad\w*|ankles?|sprunggelenke?|chevilles?|tobillos?"
    r"|foot|feet|fuss|fusse|pied|toes?|achilles|patell\w*|menisc\w*|run ?off"
    r"|hips?|hufte?n?|huefte?n?|hanches?|caderas?",
    "PHANTOM": r"\w*phantom\w*|phantome?s?|fantome?s?|fantomas?|quality (assurance|control)|qa|qc",
}
_NAMED = {region: re.compile(rf"\b({words})\b") for region, words in _WORDS.items()}
_WHOLE_BODY_WORDS = re.compile(
    r"\b(whole ?body|total ?body|ganzkorper\w*|ganzkoerper\w*|corps entier|cuerpo entero|wb)\b"
)
# words that name a coil, a position or a part of something else
_NOT_A_REGION = re.compile(
    r"\b((head|neck|body|knee|foot|ankle|wrist|hand|shoulder|breast|spine|flex|cardiac|extremity)"
    r"( (head|neck|spine|array|matrix))* ?coil"
    r"|(head|feet|foot) first|(?P<of>femoral|humeral|radial|pancrea\w*) (head|neck)|head of( the)?"
    r"|arms? (up|down|raised|above|at)|without arms?|upper extremity|upper limbs?"
    r"|lower extremity|lower limbs?|heart rate|hand injection|arm [a-z0-9])\b"
)
_LIMB = re.compile(r"\b(upper|lower) (extremit\w*|limbs?)\b")


def body_region_of(header: Header) -> Value:
    """The regions of ``REGIONS`` that a series shows, or that nothing tells."""
    declared = _declared(header.text("BodyPartExamined"))
    named = _named(_words(header, "SeriesDescription", "ProtocolName"))
    if declared and named:
        is_whole = declared == _WHOLE_BODY
        regions = declared | named if declared & named and not is_whole else named
    else:
        study = ("StudyDescription", "RequestedProcedureDescription")
        regions = declared or named or _named(_words(header, *study))
    return tuple(region for region in REGIONS if region in regions) or UNTOLD


def _declared(text: str) -> frozenset[str]:
    """What Body Part Examined says: a defined term, or words in place of one."""
    plain = re.sub(r"[^A-Z0-9]", "", text.upper())
    if plain in _WHOLE_BODY_TERMS:
        return _WHOLE_BODY
    found = frozenset(region for region, terms in _TERMS.items() if plain in terms.split())
    return found or _named(_plain([text]))


def _words(header: Header, *keywords: str) -> str:
    return _plain(header.text(keyword) for keyword in keywords)


def _plain(texts: Iterable[str]) -> str:
    """Lower case without accents, words apart by single spaces."""
    folded = unicodedata.normalize("NFKD", " . ".join(texts).casefold())
    kept = "".join(mark for mark in folded if not unicodedata.combining(mark))
    return re.sub(r"[^a-z0-9.]+", " ", re.sub(r"[,;]", " . ", kept))


def _named(words: str) -> frozenset[str]:
    limbs = {"ARM" if each[1] == "upper" else "LEG" for each in _LIMB.finditer(words)}
    words = _NOT_A_REGION.sub(lambda found: f" {found['of'] or ''} ", words)
    if _WHOLE_BODY_WORDS.search(words):
        return _WHOLE_BODY
    return frozenset(limbs) | {
        region for region, pattern in _NAMED.items() if pattern.search(words)
    }


BODY_REGION = DerivedAttribute(
    name="body_region",
    kind=Kind.TEXT,
    values=REGIONS,
    is_single=False,
    meaning="every part of the body that Body Part Examined or a name tells of",
    of=lambda facts: body_region_of(facts.header),
)

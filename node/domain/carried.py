"""What a result carries over from its source: patient and study exactly, and other sound elements.

Source: PS3.3 C.7.1.1 (Patient), C.7.1.3 and C.7.2.3 (Clinical Trial Subject, Study), C.7.2.1
(General Study), C.7.2.2 (Patient Study), C.12.1.1.2 (Specific Character Set); PS3.5 7.1 (groups),
7.5 (items), 7.8 (private elements).
"""

from __future__ import annotations

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

FIRST_GROUP = 0x0008
# an item or the end of the sequence, in both byte orders
_BEGINNINGS = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\xff\xfe\xe0\x00",
    b"\xff\xfe\xe0\xdd",
)

_COPIED = (
    "SpecificCharacterSet "
    # Patient
    "PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID "
    "PatientBirthDate PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar "
    "PatientAlternativeCalendar PatientSex ReferencedPatientPhotoSequence QualityControlSubject "
    "ReferencedPatientSequence PatientBirthTime OtherPatientIDs OtherPatientIDsSequence "
    "OtherPatientNames EthnicGroup EthnicGroupCodeSequence PatientComments PatientSpeciesDescription "
    "PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence "
    "BreedRegistrationSequence StrainDescription StrainNomenclature StrainCodeSequence "
    "StrainAdditionalInformation StrainStockSequence GeneticModificationsSequence "
    "ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientIdentityRemoved "
    "DeidentificationMethod DeidentificationMethodCodeSequence "
    "SourcePatientGroupIdentificationSequence GroupOfPatientsIdentificationSequence "
    # Clinical Trial Subject and Study
    "ClinicalTrialSponsorName ClinicalTrialProtocolID IssuerOfClinicalTrialProtocolID "
    "OtherClinicalTrialProtocolIDsSequence ClinicalTrialProtocolName ClinicalTrialSiteID "
    "IssuerOfClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID "
    "IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
    "IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName "
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialTimePointID "
    "IssuerOfClinicalTrialTimePointID ClinicalTrialTimePointDescription "
    "ClinicalTrialTimePointTypeCodeSequence LongitudinalTemporalOffsetFromEvent "
    "LongitudinalTemporalEventType ConsentForClinicalTrialUseSequence "
    # General Study
    "StudyInstanceUID StudyDate StudyTime ReferringPhysicianName "
    "ReferringPhysicianIdentificationSequence ConsultingPhysicianName "
    "ConsultingPhysicianIdentificationSequence StudyID AccessionNumber "
    "IssuerOfAccessionNumberSequence StudyDescription PhysiciansOfRecord "
    "PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy "
    "PhysiciansReadingStudyIdentificationSequence RequestingService RequestingServiceCodeSequence "
    "ReferencedStudySequence ProcedureCodeSequence ReasonForPerformedProcedureCodeSequence "
    # Patient Study
    "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize "
    "PatientWeight PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension "
    "PatientSizeCodeSequence MedicalAlerts Allergies SmokingStatus PregnancyStatus "
    "LastMenstrualDate PatientState Occupation AdditionalPatientHistory AdmissionID "
    "IssuerOfAdmissionIDSequence ServiceEpisodeID IssuerOfServiceEpisodeIDSequence "
    "ServiceEpisodeDescription ReasonForVisit ReasonForVisitCodeSequence PatientSexNeutered"
)
_NEVER_ABSENT = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName "
    "StudyID AccessionNumber"
)

COPIED_KEYWORDS = tuple(_COPIED.split())
"""Attributes of patient and study, and the character set that their text is written in."""

NEVER_ABSENT_KEYWORDS = tuple(_NEVER_ABSENT.split())
"""Type 2: what the source leaves out is there, empty (PS3.5 7.4.3)."""


def is_text_for_sequence(dataset: Dataset, tag: BaseTag, vr: str) -> bool:
    """Whether an element is a sequence by its tag and holds something else than items.

    Args:
        vr: Its value representation, by the file or the dictionary.
    """
    element: DataElement | RawDataElement = dataset.get_item(tag)
    return (
        vr == "SQ"
        and isinstance(element, RawDataElement)
        and bool(element.value)
        and not (element.value or b"").startswith(_BEGINNINGS)
    )


def is_carried(tag: BaseTag) -> bool:
    """Whether a result may carry an element of this tag over from a source."""
    return not tag.is_private and tag.element != 0 and tag.group >= FIRST_GROUP

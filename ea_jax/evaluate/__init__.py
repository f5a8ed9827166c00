"""Evidence about an edit: probes, detectors, metrics, reports."""

"""Work on corpora larger than one machine: rows in, parts out, one process or a Ray cluster in between.

storage.py  files at any fsspec address, written whole or not at all
rows.py     what IN may be: tables, folders, lhotse cuts, Parquet, text
parts.py    groups of rows with a name of their own, what is done already, the results
works.py    what a work is and which there are: recognition.py, labels.py, sound.py, pack.py
sources.py  recordings of rows, opened
job.py      what a run is told
run.py      one worker, the plain loop, Ray
report.py   progress and the summary
"""

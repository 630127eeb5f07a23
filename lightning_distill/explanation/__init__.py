"""Why a student is as it is: facts about a finished run, and what could be changed."""

"""Verdicts on cancelled orders: did the seller induce the cancellation?"""

package main

import "testing"

func TestTheMedianFigureIsKept(t *testing.T) {
	// The bars differ: what counts is how far a figure is from its own.
	same := []figure{
		{Name: "a", Value: 500, Bar: 250},
		{Name: "a", Value: 900, Bar: 1000},
		{Name: "a", Value: 300, Bar: 200},
	}
	if f := median(same); f.Value != 300 || f.Beside != "; median of 3" {
		t.Errorf("%+v", f)
	}
	if f := median(same[:1]); f.Beside != "" {
		t.Errorf("%+v", f)
	}
}
